package example;

import static example.Main.env;

import io.nats.client.Connection;
import io.nats.client.ConsumeOptions;
import io.nats.client.ConsumerContext;
import io.nats.client.IterableConsumer;
import io.nats.client.Message;
import io.nats.client.Nats;
import io.nats.client.Options;
import io.nats.client.api.AckPolicy;
import io.nats.client.api.ConsumerConfiguration;
import io.nats.client.api.DeliverPolicy;
import java.nio.file.Path;
import java.time.Duration;
import java.util.concurrent.TimeoutException;
import java.util.function.BooleanSupplier;

/** Consumes one topic of relay from NATS JetStream: a durable pull consumer, each message acknowledged after it has been handled. */
final class NatsConsumer {
  private static final Duration RETRY_AFTER = Duration.ofSeconds(5); // for what may go better later
  private static final Duration PULL = Duration.ofSeconds(5); // the shorter, the sooner jnats goes on after a lost connection

  private NatsConsumer() {}

  static void run(BooleanSupplier running) throws Exception {
    long ackWait = (long) (1000 * Double.parseDouble(env("ACK_WAIT", "30"))); // milliseconds
    Options connection = Options.builder().server(env("NATS_URL", Options.DEFAULT_URL)).maxReconnects(-1).build();
    try (Ledger ledger = new Ledger(Path.of(env("DATA", "data"))); Connection nc = Nats.connect(connection)) {
      ConsumerContext consumer = nc.getStreamContext(env("STREAM", "WORKOS")).createOrUpdateConsumer(ConsumerConfiguration.builder()
          .durable(env("CONSUMER", "example-java"))        // the position is kept on the server under this name
          .filterSubject(env("TOPIC", "dsync.user.created")) // without one the messages with relay's own position come, too
          .deliverPolicy(DeliverPolicy.All)
          .ackPolicy(AckPolicy.Explicit)
          .ackWait(ackWait) // longer than handling takes, or call msg.inProgress() meanwhile
          .maxAckPending(1) // keeps the order when a message is delivered again; more where order does not matter
          .build());
      ConsumeOptions options = ConsumeOptions.builder().expiresIn(PULL.toMillis()).build();
      try (IterableConsumer messages = consumer.iterate(options)) {
        while (running.getAsBoolean()) {
          Message msg = messages.nextMessage(1_000);
          if (msg != null) {
            handle(ledger, msg);
          }
        }
      }
    }
  }

  private static void handle(Ledger ledger, Message msg) throws InterruptedException {
    String id = msg.hasHeaders() ? msg.getHeaders().getFirst("event-id") : null;
    try {
      try {
        ledger.handle(id, msg.getData());
      } catch (Poison e) {
        ledger.park(id, msg.getData(), e);
      }
    } catch (Exception e) {
      System.out.println("trying again in " + RETRY_AFTER.toSeconds() + " s: " + e);
      msg.nakWithDelay(RETRY_AFTER);
      return;
    }
    try {
      msg.ackSync(Duration.ofSeconds(5));
    } catch (TimeoutException | IllegalStateException e) { // it comes again, and is known by its id
      System.out.println("not confirmed: " + e);
    }
  }
}
