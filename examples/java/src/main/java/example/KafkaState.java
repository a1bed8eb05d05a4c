package example;

import static example.Main.env;

import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.function.BooleanSupplier;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * Follows the state of one entity on Kafka: its compacted topic from the beginning, and then each change. It belongs to no group: every
 * instance of a service needs the whole table. (A GlobalKTable of Kafka Streams keeps the same table on the disk.)
 */
final class KafkaState {
  private KafkaState() {}

  static void run(BooleanSupplier running) {
    String topic = env("PREFIX", "") + "state." + env("ENTITY", "directory_user");
    Map<String, Object> config = Map.of(
        ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, env("KAFKA_BROKERS", "127.0.0.1:9092"),
        ConsumerConfig.ISOLATION_LEVEL_CONFIG, "read_committed", // without this it would also see transactions that relay aborts
        ConsumerConfig.ALLOW_AUTO_CREATE_TOPICS_CONFIG, false, // relay creates its topics: another's would not be compacted
        ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, false);
    try (var consumer = new KafkaConsumer<>(config, new StringDeserializer(), new StringDeserializer())) {
      List<TopicPartition> partitions = consumer.partitionsFor(topic).stream()
          .map(p -> new TopicPartition(p.topic(), p.partition()))
          .toList();
      if (partitions.isEmpty()) {
        throw new IllegalStateException("topic " + topic + " does not exist: start relay with state for this entity, which creates it");
      }
      consumer.assign(partitions);
      consumer.seekToBeginning(partitions);
      Map<TopicPartition, Long> ends = consumer.endOffsets(partitions);
      Table table = new Table();
      boolean current = false;
      while (running.getAsBoolean()) {
        for (ConsumerRecord<String, String> change : consumer.poll(Duration.ofSeconds(1))) {
          table.set(change.key(), change.value());
        }
        if (!current && partitions.stream().allMatch(p -> consumer.position(p) >= ends.get(p))) {
          current = true; // what there was has come; changes follow
          table.current();
        }
      }
    }
  }
}
