package example;

import java.util.HashMap;
import java.util.Map;

/** The present objects of one entity. A service that must remember them between two starts keeps them in its database. */
final class Table {
  private final Map<String, String> objects = new HashMap<>();

  /** Takes note of the newest version of an object, or of its removal if there is none. */
  void set(String key, String object) {
    if (object == null) {
      objects.remove(key);
      System.out.println("removed\t" + key);
    } else {
      objects.put(key, object);
      System.out.println("set\t" + key + "\t" + object);
    }
  }

  /** Says how many objects there are, once all that the bus had have come. */
  void current() {
    System.out.println("current\t" + objects.size());
  }
}
