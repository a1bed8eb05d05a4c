package example;

import static example.Main.env;

import io.nats.client.Connection;
import io.nats.client.Nats;
import io.nats.client.Options;
import io.nats.client.api.KeyValueEntry;
import io.nats.client.api.KeyValueOperation;
import io.nats.client.api.KeyValueWatcher;
import io.nats.client.impl.NatsKeyValueWatchSubscription;
import java.util.function.BooleanSupplier;

/** Follows the state of one entity on NATS: its key-value bucket, and then each change. */
final class NatsState {
  private NatsState() {}

  static void run(BooleanSupplier running) throws Exception {
    Options options = Options.builder().server(env("NATS_URL", Options.DEFAULT_URL)).maxReconnects(-1).build();
    Table table = new Table();
    KeyValueWatcher watcher = new KeyValueWatcher() {
      @Override
      public void watch(KeyValueEntry entry) {
        table.set(entry.getKey(), entry.getOperation() == KeyValueOperation.PUT ? entry.getValueAsString() : null);
      }

      @Override
      public void endOfData() { // what there was has come; changes follow
        table.current();
      }
    };
    try (Connection nc = Nats.connect(options);
        // A watch begins with the newest version of every key.
        NatsKeyValueWatchSubscription watch = nc.keyValue("STATE_" + env("ENTITY", "directory_user")).watchAll(watcher)) {
      while (running.getAsBoolean()) {
        Thread.sleep(100);
      }
    }
  }
}
