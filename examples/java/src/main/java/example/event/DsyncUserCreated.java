package example.event;

import com.fasterxml.jackson.annotation.*;
import java.time.OffsetDateTime;

public class DsyncUserCreated {
    private Context context;
    private OffsetDateTime createdAt;
    private Data data;
    private String event;
    private String id;
    private String object;

    /**
     * Who or what caused the event. It can hold personal data.
     */
    @JsonProperty("context")
    public Context getContext() { return context; }
    @JsonProperty("context")
    public void setContext(Context value) { this.context = value; }

    @JsonProperty("created_at")
    public OffsetDateTime getCreatedAt() { return createdAt; }
    @JsonProperty("created_at")
    public void setCreatedAt(OffsetDateTime value) { this.createdAt = value; }

    @JsonProperty("data")
    public Data getData() { return data; }
    @JsonProperty("data")
    public void setData(Data value) { this.data = value; }

    @JsonProperty("event")
    public String getEvent() { return event; }
    @JsonProperty("event")
    public void setEvent(String value) { this.event = value; }

    @JsonProperty("id")
    public String getID() { return id; }
    @JsonProperty("id")
    public void setID(String value) { this.id = value; }

    @JsonProperty("object")
    public String getObject() { return object; }
    @JsonProperty("object")
    public void setObject(String value) { this.object = value; }
}
