package io.sensorpipeline.bench;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.Arrays;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.KGroupedStream;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.Suppressed;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.processor.TimestampExtractor;

/**
 * The windows of the worker benchmark as one writes them with Kafka Streams: sum and count per device and tumbling
 * window, event time from the reading, two days of grace, one result per window when it closes, RocksDB,
 * at-least-once. Says when it has seen the first reading, and ends after so many.
 *
 * <p>Arguments: bootstrap server, application id, input topic, output topic, number of readings, window periods in ms
 * (comma separated), state directory.
 */
public final class DayWindows {
  private static final JsonFactory JSON = new JsonFactory();

  private record Reading(String device, String metric, long time, double value) {}

  private record Total(double sum, long count) {
    Total plus(double value) {
      return new Total(sum + value, count + 1);
    }
  }

  public static void main(String[] arguments) throws InterruptedException {
    String server = arguments[0];
    String application = arguments[1];
    long readings = Long.parseLong(arguments[4]);
    long[] periods = Arrays.stream(arguments[5].split(",")).mapToLong(Long::parseLong).toArray();
    CountDownLatch done = new CountDownLatch(1);
    AtomicLong seen = new AtomicLong();

    StreamsBuilder builder = new StreamsBuilder();
    TimestampExtractor eventTime = (record, partitionTime) -> ((Reading) record.value()).time();
    Consumed<String, Reading> consumed =
        Consumed.with(Serdes.String(), readingSerde()).withTimestampExtractor(eventTime);
    KGroupedStream<String, Reading> grouped =
        builder.stream(arguments[2], consumed)
            .peek((device, reading) -> {
              long number = seen.incrementAndGet();
              if (number == 1) {
                System.out.println("first reading");
              }
              if (number == readings) {
                done.countDown();
              }
            })
            .groupByKey(Grouped.with(Serdes.String(), readingSerde()));
    for (long period : periods) {
      grouped
          .windowedBy(TimeWindows.ofSizeAndGrace(Duration.ofMillis(period), Duration.ofDays(2)))
          .aggregate(() -> new Total(0, 0), (device, reading, total) -> total.plus(reading.value()),
              Materialized.with(Serdes.String(), totalSerde()))
          .suppress(Suppressed.untilWindowCloses(Suppressed.BufferConfig.unbounded()))
          .toStream()
          .map((window, total) -> KeyValue.pair(window.key(),
              "{\"device\":\"" + window.key() + "\",\"period\":" + period + ",\"start\":" + window.window().start()
                  + ",\"value\":" + total.sum() + ",\"count\":" + total.count() + "}"))
          .to(arguments[3], Produced.with(Serdes.String(), Serdes.String()));
    }

    Properties settings = new Properties();
    settings.put(StreamsConfig.APPLICATION_ID_CONFIG, application);
    settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, server);
    settings.put(StreamsConfig.STATE_DIR_CONFIG, arguments[6]);
    settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
    settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.AT_LEAST_ONCE);
    settings.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
    KafkaStreams streams = new KafkaStreams(builder.build(), settings);
    Runtime.getRuntime().addShutdownHook(new Thread(done::countDown));
    streams.start();
    done.await();
    streams.close(Duration.ofSeconds(60));
    Runtime.getRuntime().halt(0);
  }

  private static Serde<Reading> readingSerde() {
    return Serdes.serdeFrom(
        (topic, reading) -> {
          throw new UnsupportedOperationException("readings are only read");
        },
        (topic, data) -> parse(data));
  }

  private static Reading parse(byte[] data) {
    String device = null;
    String metric = null;
    long time = 0;
    double value = 0;
    try (JsonParser parser = JSON.createParser(data)) {
      parser.nextToken();
      while (parser.nextToken() == JsonToken.FIELD_NAME) {
        String name = parser.currentName();
        parser.nextToken();
        switch (name) {
          case "device" -> device = parser.getText();
          case "metric" -> metric = parser.getText();
          case "time" -> time = parser.getLongValue();
          case "value" -> value = parser.getDoubleValue();
          default -> parser.skipChildren();
        }
      }
    } catch (IOException error) {
      throw new IllegalArgumentException(error);
    }
    return new Reading(device, metric, time, value);
  }

  private static Serde<Total> totalSerde() {
    return Serdes.serdeFrom(
        (topic, total) -> total == null ? null
            : ByteBuffer.allocate(16).putDouble(total.sum()).putLong(total.count()).array(),
        (topic, data) -> {
          if (data == null) {
            return null;
          }
          ByteBuffer buffer = ByteBuffer.wrap(data);
          return new Total(buffer.getDouble(), buffer.getLong());
        });
  }
}
