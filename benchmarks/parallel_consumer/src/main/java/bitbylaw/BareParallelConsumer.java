package bitbylaw;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.confluent.parallelconsumer.ParallelConsumerOptions;
import io.confluent.parallelconsumer.ParallelStreamProcessor;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.time.Duration;
import java.time.Instant;
import java.util.List;
import java.util.Map;
import java.util.Queue;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/** Handles each record of a topic by sleeping as long as it says; writes down when each run was. */
public final class BareParallelConsumer {
    private record Run(String key, int number, long began, long ended) {
        String line() {
            return key + " " + number + " " + began + " " + ended;
        }
    }

    /** Takes the brokers, the topic, the group, how many keys at once, how many records, the ledger. */
    public static void main(String[] given) throws Exception {
        int concurrency = Integer.parseInt(given[3]);
        int records = Integer.parseInt(given[4]);
        ObjectMapper json = new ObjectMapper();
        Queue<Run> runs = new ConcurrentLinkedQueue<>();
        CountDownLatch left = new CountDownLatch(records);
        var consumer = new KafkaConsumer<>(
                Map.of(
                        "bootstrap.servers", given[0],
                        "group.id", given[2],
                        "enable.auto.commit", false,
                        "auto.offset.reset", "earliest",
                        "isolation.level", "read_committed"),
                new ByteArrayDeserializer(),
                new ByteArrayDeserializer());
        ParallelStreamProcessor<byte[], byte[]> worker = ParallelStreamProcessor.createEosStreamProcessor(
                ParallelConsumerOptions.<byte[], byte[]>builder()
                        .consumer(consumer)
                        .ordering(ParallelConsumerOptions.ProcessingOrder.KEY)
                        .maxConcurrency(concurrency)
                        .commitInterval(Duration.ofMillis(500)) // ours commits as often
                        .build());
        worker.subscribe(List.of(given[1]));
        worker.poll(context -> {
            long began = now();
            try {
                JsonNode event = json.readTree(context.value());
                Thread.sleep(event.get("sleep_ms").asInt());
                runs.add(new Run(event.get("thing").asText(), event.get("number").asInt(), began, now()));
            } catch (IOException | InterruptedException broken) {
                throw new IllegalStateException(broken);
            }
            left.countDown();
        });
        left.await();
        write(runs, Path.of(given[5]));
        Thread.currentThread().join(); // the runner watches the commits and then ends us
    }

    private static long now() {
        Instant instant = Instant.now();
        return instant.getEpochSecond() * 1_000_000_000L + instant.getNano();
    }

    private static void write(Queue<Run> runs, Path ledger) throws IOException {
        Path beside = ledger.resolveSibling(ledger.getFileName() + ".part");
        Files.write(beside, runs.stream().map(Run::line).toList());
        Files.move(beside, ledger, StandardCopyOption.ATOMIC_MOVE);
    }
}
