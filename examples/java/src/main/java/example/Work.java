package example;

import example.event.DsyncUserCreated;
import java.util.LinkedHashMap;
import java.util.Map;
import tools.jackson.core.JacksonException;
import tools.jackson.databind.DeserializationFeature;
import tools.jackson.databind.json.JsonMapper;

/** Your work. */
final class Work {
  private static final JsonMapper JSON = JsonMapper.builder()
      .disable(DeserializationFeature.FAIL_ON_UNKNOWN_PROPERTIES) // WorkOS adds properties to its events
      .build();

  private Work() {}

  /**
   * Handles one event. What it returns is stored together with the id of the event. The type of the event is generated from the JSON
   * Schema that `relay types --schema dsync.user.created` prints.
   */
  static Map<String, Object> apply(byte[] body) {
    DsyncUserCreated event;
    try {
      event = JSON.readValue(body, DsyncUserCreated.class);
    } catch (JacksonException e) {
      throw new Poison("the body is not an event", e);
    }
    if (event == null || event.getData() == null) {
      throw new Poison("the body is not an event: it has no data");
    }
    Map<String, Object> result = new LinkedHashMap<>();
    result.put("event", event.getEvent());
    result.put("about", event.getData().getID());
    return result;
  }
}
