package example.event;

import com.fasterxml.jackson.annotation.*;
import java.util.List;
import java.util.Map;

/**
 * Who or what caused the event. It can hold personal data.
 */
public class Context {
    private Actor actor;
    private String ajsAnonymousID;
    private String clientID;
    private String googleAnalyticsClientID;
    private List<Map<String, Object>> googleAnalyticsSessions;
    private Map<String, Object> previousAttributes;

    @JsonProperty("actor")
    public Actor getActor() { return actor; }
    @JsonProperty("actor")
    public void setActor(Actor value) { this.actor = value; }

    @JsonProperty("ajs_anonymous_id")
    public String getAjsAnonymousID() { return ajsAnonymousID; }
    @JsonProperty("ajs_anonymous_id")
    public void setAjsAnonymousID(String value) { this.ajsAnonymousID = value; }

    @JsonProperty("client_id")
    public String getClientID() { return clientID; }
    @JsonProperty("client_id")
    public void setClientID(String value) { this.clientID = value; }

    @JsonProperty("google_analytics_client_id")
    public String getGoogleAnalyticsClientID() { return googleAnalyticsClientID; }
    @JsonProperty("google_analytics_client_id")
    public void setGoogleAnalyticsClientID(String value) { this.googleAnalyticsClientID = value; }

    @JsonProperty("google_analytics_sessions")
    public List<Map<String, Object>> getGoogleAnalyticsSessions() { return googleAnalyticsSessions; }
    @JsonProperty("google_analytics_sessions")
    public void setGoogleAnalyticsSessions(List<Map<String, Object>> value) { this.googleAnalyticsSessions = value; }

    @JsonProperty("previous_attributes")
    public Map<String, Object> getPreviousAttributes() { return previousAttributes; }
    @JsonProperty("previous_attributes")
    public void setPreviousAttributes(Map<String, Object> value) { this.previousAttributes = value; }
}
