/* The bench's MQTT peers, on bare sockets, so that neither costs more than it must (MQTT 3.1.1, QoS 1).
 *
 *   mqtt_peer publish PORT COUNT WINDOW RATE   publishes COUNT messages, no more than WINDOW unacknowledged, RATE per
 *                                              second (0: as fast as it goes); prints when the first was sent and how
 *                                              long it took until all were acknowledged
 *   mqtt_peer subscribe PORT COUNT             receives and acknowledges COUNT messages; prints when the last came
 *
 * Messages are 110 bytes of JSON on bench/d<0..199>/m, with the time of publication in ms.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define DEVICES 200
#define PAYLOAD 110

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void send_all(int fd, const unsigned char *data, size_t size) {
    while (size > 0) {
        ssize_t n = write(fd, data, size);
        if (n < 0) fail("write");
        data += n;
        size -= (size_t)n;
    }
}

static void receive_exactly(int fd, unsigned char *data, size_t size) {
    while (size > 0) {
        ssize_t n = read(fd, data, size);
        if (n <= 0) fail("read");
        data += n;
        size -= (size_t)n;
    }
}

static int join(int port, const char *client) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(fd, (struct sockaddr *)&to, sizeof to)) fail("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    size_t length = strlen(client);
    unsigned char packet[64] = {0x10, (unsigned char)(12 + length), 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 0, 0,
                                (unsigned char)length};
    memcpy(packet + 14, client, length);
    send_all(fd, packet, 14 + length);
    unsigned char answer[4];
    receive_exactly(fd, answer, 4);
    if (answer[3] != 0) fail("connection refused");
    return fd;
}

static size_t message(unsigned char *out, long number, int id) {
    char topic[32], body[PAYLOAD + 1];
    int length = snprintf(topic, sizeof topic, "bench/d%ld/m", number % DEVICES);
    int used = snprintf(body, sizeof body, "{\"ts\":%lld,\"value\":%ld.%ld,\"note\":\"", (long long)(now() * 1000),
                        number % 1000, number % 10);
    memset(body + used, 'x', (size_t)(PAYLOAD - used));
    memcpy(body + PAYLOAD - 2, "\"}", 2);
    int rest = 2 + length + 2 + PAYLOAD;
    size_t at = 0;
    out[at++] = 0x32;
    out[at++] = (unsigned char)((rest & 0x7f) | 0x80);
    out[at++] = (unsigned char)(rest >> 7);
    out[at++] = 0;
    out[at++] = (unsigned char)length;
    memcpy(out + at, topic, (size_t)length);
    at += (size_t)length;
    out[at++] = (unsigned char)(id >> 8);
    out[at++] = (unsigned char)id;
    memcpy(out + at, body, PAYLOAD);
    return at + PAYLOAD;
}

static void publish(int port, long count, long window, double rate) {
    int fd = join(port, "bench-publisher");
    static unsigned char out[64 * 1024], in[64 * 1024];
    long sent = 0, bytes = 0;
    double begin = now();
    while (bytes / 4 < count) {
        long acknowledged = bytes / 4; /* every answer is a PUBACK of 4 bytes */
        if (rate == 0) { /* to be woken by each of them would cost more than all else that is done here */
            long left = sent - acknowledged;
            int low = 4 * (int)(left < window / 8 ? left : window / 8);
            if (low > 0) setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &low, sizeof low);
        }
        long may = count - sent < window - (sent - acknowledged) ? count - sent : window - (sent - acknowledged);
        if (rate > 0) {
            long due = (long)((now() - begin) * rate) + 1 - sent;
            if (due < may) may = due;
        }
        size_t size = 0;
        for (; may > 0 && size < sizeof out - 256; may--, sent++)
            size += message(out + size, sent, 1 + (int)(sent % 65000));
        if (size) send_all(fd, out, size);
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        int wait = size ? 0 : 1;
        if (poll(&ready, 1, wait) > 0) {
            ssize_t n = read(fd, in, sizeof in);
            if (n <= 0) fail("read");
            bytes += n;
        }
    }
    printf("%.6f %.6f\n", begin, now() - begin);
}

static void subscribe(int port, long count) {
    int fd = join(port, "bench-subscriber");
    static unsigned char in[256 * 1024], out[64 * 1024];
    const unsigned char request[] = {0x82, 14, 0, 1, 0, 9, 'b', 'e', 'n', 'c', 'h', '/', '+', '/', 'm', 1};
    send_all(fd, request, sizeof request);
    size_t held = 0;
    long received = 0;
    while (received < count) {
        ssize_t n = read(fd, in + held, sizeof in - held);
        if (n <= 0) fail("read");
        held += (size_t)n;
        size_t at = 0, size = 0;
        while (held - at >= 2) {
            size_t length = 0, p = at + 1;
            int shift = 0;
            while (p < held && (in[p] & 0x80)) length |= (size_t)(in[p++] & 0x7f) << shift, shift += 7;
            if (p >= held) break;
            length |= (size_t)in[p++] << shift;
            if (p + length > held) break;
            if (in[at] >> 4 == 3) {
                size_t id = p + 2 + ((size_t)in[p] << 8 | in[p + 1]);
                out[size++] = 0x40;
                out[size++] = 2;
                out[size++] = in[id];
                out[size++] = in[id + 1];
                received++;
            } else if (in[at] >> 4 == 9) {
                printf("subscribed\n");
                fflush(stdout);
            }
            at = p + length;
        }
        if (size) send_all(fd, out, size);
        memmove(in, in + at, held - at);
        held -= at;
    }
    printf("%.6f\n", now());
}

int main(int argc, char **argv) {
    if (argc == 6 && !strcmp(argv[1], "publish"))
        publish(atoi(argv[2]), atol(argv[3]), atol(argv[4]), atof(argv[5]));
    else if (argc == 4 && !strcmp(argv[1], "subscribe"))
        subscribe(atoi(argv[2]), atol(argv[3]));
    else
        return fprintf(stderr, "usage: %s publish PORT COUNT WINDOW RATE | subscribe PORT COUNT\n", argv[0]), 2;
    return 0;
}
