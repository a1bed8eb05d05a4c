package example.event;

import com.fasterxml.jackson.annotation.*;

public class PurpleRole {
    private String slug;

    @JsonProperty("slug")
    public String getSlug() { return slug; }
    @JsonProperty("slug")
    public void setSlug(String value) { this.slug = value; }
}
