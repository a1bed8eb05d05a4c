package example.event;

import com.fasterxml.jackson.annotation.*;

public class Email {
    private Boolean primary;
    private String type;
    private String value;

    @JsonProperty("primary")
    public Boolean getPrimary() { return primary; }
    @JsonProperty("primary")
    public void setPrimary(Boolean value) { this.primary = value; }

    @JsonProperty("type")
    public String getType() { return type; }
    @JsonProperty("type")
    public void setType(String value) { this.type = value; }

    @JsonProperty("value")
    public String getValue() { return value; }
    @JsonProperty("value")
    public void setValue(String value) { this.value = value; }
}
