package example.event;

import com.fasterxml.jackson.annotation.*;

public class RoleElement {
    private String slug;

    @JsonProperty("slug")
    public String getSlug() { return slug; }
    @JsonProperty("slug")
    public void setSlug(String value) { this.slug = value; }
}
