package example;

import java.util.concurrent.atomic.AtomicBoolean;
import java.util.function.BooleanSupplier;
import org.springframework.boot.SpringApplication;

/** Consumes one topic of relay, or follows the state of one entity. */
final class Main {
  private Main() {}

  public static void main(String[] args) throws Exception {
    switch (args.length == 1 ? args[0] : "") {
      case "nats" -> NatsConsumer.run(running());
      case "kafka" -> SpringApplication.run(KafkaConsumerApplication.class);
      case "state-nats" -> NatsState.run(running());
      case "state-kafka" -> KafkaState.run(running());
      default -> {
        System.err.println("usage: java -jar target/consumers.jar nats|kafka|state-nats|state-kafka");
        System.exit(2);
      }
    }
  }

  /**
   * Returns what tells the main thread whether it may go on. After SIGINT or SIGTERM it may not, and the process waits until the
   * thread has ended. Spring does the same for its listeners.
   */
  private static BooleanSupplier running() {
    Thread main = Thread.currentThread();
    AtomicBoolean running = new AtomicBoolean(true);
    Runtime.getRuntime().addShutdownHook(new Thread(() -> {
      running.set(false);
      try {
        main.join();
      } catch (InterruptedException e) {
        Thread.currentThread().interrupt();
      }
    }));
    return running::get;
  }

  static String env(String name, String otherwise) {
    String value = System.getenv(name);
    return value == null || value.isEmpty() ? otherwise : value;
  }
}
