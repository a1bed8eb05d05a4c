package example;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.Map;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.common.header.Header;
import org.springframework.beans.factory.annotation.Value;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.context.annotation.Bean;
import org.springframework.kafka.annotation.KafkaListener;
import org.springframework.kafka.listener.DefaultErrorHandler;
import org.springframework.kafka.support.Acknowledgment;
import org.springframework.stereotype.Component;
import org.springframework.util.backoff.FixedBackOff;

/** Consumes one topic of relay from Kafka. application.yml has its settings: committed messages only, no commit by a timer. */
@SpringBootApplication(proxyBeanMethods = false)
class KafkaConsumerApplication {
  private static final long RETRY_AFTER = 5_000; // milliseconds, for what may go better later

  @Bean
  Ledger ledger(@Value("${DATA:data}") String folder) throws IOException {
    return new Ledger(Path.of(folder));
  }

  /**
   * Parks poison and commits its offset. After any other exception the partition goes back to the record that failed, which is tried
   * again until it is handled: nothing is skipped, and what comes after it waits. Spring's own default gives up after 10 attempts.
   */
  @Bean
  DefaultErrorHandler errorHandler(Ledger ledger) {
    DefaultErrorHandler handler = new DefaultErrorHandler(
        (failed, error) -> park(ledger, failed, error), new FixedBackOff(RETRY_AFTER, FixedBackOff.UNLIMITED_ATTEMPTS));
    handler.setClassifications(Map.of(Poison.class, false), true);
    handler.setCommitRecovered(true);
    return handler;
  }

  private static void park(Ledger ledger, ConsumerRecord<?, ?> failed, Exception error) {
    Throwable cause = error;
    while (!(cause instanceof Poison)) {
      cause = cause.getCause();
    }
    try {
      ledger.park(eventId(failed), body(failed), (Poison) cause);
    } catch (IOException e) { // it comes again
      throw new UncheckedIOException(e);
    }
  }

  private static String eventId(ConsumerRecord<?, ?> message) {
    Header header = message.headers().lastHeader("event-id");
    return header == null ? null : new String(header.value(), StandardCharsets.UTF_8);
  }

  private static byte[] body(ConsumerRecord<?, ?> message) {
    return message.value() instanceof byte[] body ? body : new byte[0];
  }

  @Component
  static class Listener {
    private final Ledger ledger;

    Listener(Ledger ledger) {
      this.ledger = ledger;
    }

    @KafkaListener(topics = "${TOPIC:dsync.user.created}")
    void on(ConsumerRecord<byte[], byte[]> message, Acknowledgment acknowledgment) throws IOException {
      ledger.handle(eventId(message), body(message));
      acknowledgment.acknowledge();
    }
  }
}
