package example.event;

import com.fasterxml.jackson.annotation.*;
import java.time.OffsetDateTime;
import java.util.List;
import java.util.Map;

public class Data {
    private OffsetDateTime createdAt;
    private Map<String, Object> customAttributes;
    private String directoryID;
    private String email;
    private List<Email> emails;
    private String firstName;
    private String id;
    private String idpID;
    private String jobTitle;
    private String lastName;
    private String name;
    private String object;
    private String organizationID;
    private Map<String, Object> rawAttributes;
    private PurpleRole role;
    private List<RoleElement> roles;
    private String state;
    private OffsetDateTime updatedAt;
    private String username;

    @JsonProperty("created_at")
    public OffsetDateTime getCreatedAt() { return createdAt; }
    @JsonProperty("created_at")
    public void setCreatedAt(OffsetDateTime value) { this.createdAt = value; }

    @JsonProperty("custom_attributes")
    public Map<String, Object> getCustomAttributes() { return customAttributes; }
    @JsonProperty("custom_attributes")
    public void setCustomAttributes(Map<String, Object> value) { this.customAttributes = value; }

    @JsonProperty("directory_id")
    public String getDirectoryID() { return directoryID; }
    @JsonProperty("directory_id")
    public void setDirectoryID(String value) { this.directoryID = value; }

    @JsonProperty("email")
    public String getEmail() { return email; }
    @JsonProperty("email")
    public void setEmail(String value) { this.email = value; }

    @JsonProperty("emails")
    public List<Email> getEmails() { return emails; }
    @JsonProperty("emails")
    public void setEmails(List<Email> value) { this.emails = value; }

    @JsonProperty("first_name")
    public String getFirstName() { return firstName; }
    @JsonProperty("first_name")
    public void setFirstName(String value) { this.firstName = value; }

    @JsonProperty("id")
    public String getID() { return id; }
    @JsonProperty("id")
    public void setID(String value) { this.id = value; }

    @JsonProperty("idp_id")
    public String getIdpID() { return idpID; }
    @JsonProperty("idp_id")
    public void setIdpID(String value) { this.idpID = value; }

    @JsonProperty("job_title")
    public String getJobTitle() { return jobTitle; }
    @JsonProperty("job_title")
    public void setJobTitle(String value) { this.jobTitle = value; }

    @JsonProperty("last_name")
    public String getLastName() { return lastName; }
    @JsonProperty("last_name")
    public void setLastName(String value) { this.lastName = value; }

    @JsonProperty("name")
    public String getName() { return name; }
    @JsonProperty("name")
    public void setName(String value) { this.name = value; }

    @JsonProperty("object")
    public String getObject() { return object; }
    @JsonProperty("object")
    public void setObject(String value) { this.object = value; }

    @JsonProperty("organization_id")
    public String getOrganizationID() { return organizationID; }
    @JsonProperty("organization_id")
    public void setOrganizationID(String value) { this.organizationID = value; }

    @JsonProperty("raw_attributes")
    public Map<String, Object> getRawAttributes() { return rawAttributes; }
    @JsonProperty("raw_attributes")
    public void setRawAttributes(Map<String, Object> value) { this.rawAttributes = value; }

    @JsonProperty("role")
    public PurpleRole getRole() { return role; }
    @JsonProperty("role")
    public void setRole(PurpleRole value) { this.role = value; }

    @JsonProperty("roles")
    public List<RoleElement> getRoles() { return roles; }
    @JsonProperty("roles")
    public void setRoles(List<RoleElement> value) { this.roles = value; }

    @JsonProperty("state")
    public String getState() { return state; }
    @JsonProperty("state")
    public void setState(String value) { this.state = value; }

    @JsonProperty("updated_at")
    public OffsetDateTime getUpdatedAt() { return updatedAt; }
    @JsonProperty("updated_at")
    public void setUpdatedAt(OffsetDateTime value) { this.updatedAt = value; }

    @JsonProperty("username")
    public String getUsername() { return username; }
    @JsonProperty("username")
    public void setUsername(String value) { this.username = value; }
}
