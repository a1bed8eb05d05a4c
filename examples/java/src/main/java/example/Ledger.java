package example;

import java.io.Closeable;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.time.Instant;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Set;
import tools.jackson.databind.json.JsonMapper;

/**
 * The results, and the ids of the events that they came from: one line each, written to the disk before the message is acknowledged.
 *
 * <p>In a service this is a table whose primary key is the event id, and id and result are written in one transaction. One process
 * has the files at a time; its threads may share the ledger.
 */
final class Ledger implements Closeable {
  private static final JsonMapper JSON = new JsonMapper();
  private final Set<String> seen = new HashSet<>();
  private final FileChannel handled;
  private final FileChannel parked;

  Ledger(Path folder) throws IOException {
    Files.createDirectories(folder);
    Path file = folder.resolve("handled.jsonl");
    handled = open(file);
    parked = open(folder.resolve("parked.jsonl"));
    for (String line : Files.readAllLines(file)) {
      seen.add(JSON.readTree(line).get("event_id").stringValue());
    }
  }

  /** Returns when the message may be acknowledged: the event has been handled, now or before. Throws Poison if it never can be. */
  synchronized void handle(String id, byte[] body) throws IOException {
    if (seen.contains(id)) {
      return;
    }
    if (id == null || id.isEmpty()) {
      throw new Poison("the header event-id is missing");
    }
    Map<String, Object> result = Work.apply(body);
    result.put("event_id", id);
    append(handled, result);
    seen.add(id);
    System.out.println("handled event " + id + ": " + result.get("event") + " " + result.get("about"));
  }

  /** Puts an event aside for an operator, so that it does not hold up what comes after it. Then its message may be acknowledged. */
  synchronized void park(String id, byte[] body, Poison reason) throws IOException {
    Map<String, Object> record = new LinkedHashMap<>();
    record.put("event_id", id);
    record.put("reason", reason.getMessage());
    record.put("at", Instant.now().toString());
    record.put("body", new String(body, StandardCharsets.UTF_8));
    append(parked, record);
    System.out.println("parked event " + id + ": " + reason.getMessage());
  }

  private static FileChannel open(Path file) throws IOException {
    FileChannel channel = FileChannel.open(file, StandardOpenOption.CREATE, StandardOpenOption.APPEND);
    byte[] text = Files.readAllBytes(file);
    int whole = text.length; // what follows the last newline was torn off by a crash, before it was acknowledged
    while (whole > 0 && text[whole - 1] != '\n') {
      whole--;
    }
    channel.truncate(whole);
    return channel;
  }

  private static void append(FileChannel file, Map<String, Object> record) throws IOException {
    ByteBuffer line = ByteBuffer.wrap((JSON.writeValueAsString(record) + "\n").getBytes(StandardCharsets.UTF_8));
    long end = file.size();
    try {
      while (line.hasRemaining()) {
        file.write(line);
      }
      file.force(false);
    } catch (IOException e) { // it is written again
      file.truncate(end);
      throw e;
    }
  }

  @Override
  public void close() throws IOException {
    handled.close();
    parked.close();
  }
}
