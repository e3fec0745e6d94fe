/* Readers of event streams, many at a time from one thread: what 500 people with a chat window open
 * are to the proxy.
 *
 *   KEY=sk-... streams PORT READERS CHUNKS PACE WARM_UP SECONDS [LEAVE_AFTER]
 *
 * Each reader asks for CHUNKS chunks PACE milliseconds apart, again and again; the first time spread
 * over a stream's length. With LEAVE_AFTER it closes its connection after so many chunks instead of
 * reading on. Prints START and END around the seconds that are measured, then one line of JSON, times
 * in milliseconds: ttft is from a request to its first chunk, relay from the backend's writing of a
 * chunk to its reading here, on one clock.
 */
#define _GNU_SOURCE
#include "common.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_EVENTS = 256, TAIL = 64 };

typedef struct {
  int fd, seen, done;
  uint64_t asked_at, start_at;
  char tail[TAIL]; /* The end of what was read: a stamp or the last line may come in two pieces. */
  size_t tail_used;
} reader;

typedef struct {
  double *values;
  size_t used, size;
} series;

static int poller, port, readers, wanted, leave_after;
static char request[2048];
static size_t request_length;
static uint64_t from, until, chunks, finished, left, errors, short_streams;
static series ttft, relay;
static char problem[256];

static int measuring(uint64_t now) { return now >= from && now < until; }

static void note(series *s, uint64_t since, uint64_t now) {
  if (s->used == s->size) s->values = grow(s->values, (s->size = s->size ? 2 * s->size : 65536) * sizeof *s->values);
  s->values[s->used++] = now > since ? (double)(now - since) / 1e6 : 0;
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double percentile(const series *s, double share) {
  return s->used ? s->values[(size_t)((double)(s->used - 1) * share)] : 0;
}

static void hang_up(reader *r) {
  close(r->fd);
  r->fd = -1;
}

static void fail(reader *r, const char *what, const char *detail) {
  if (measuring(now_ns())) errors++;
  if (!*problem) snprintf(problem, sizeof problem, "%s %.120s", what, detail);
  hang_up(r);
  r->start_at = now_ns() + 100000000u; /* Not a storm of attempts. */
}

static void connect_to_server(reader *r) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int on = 1;
  r->fd = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(r->fd, (void *)&address, sizeof address)) {
    fail(r, "connect", "");
    return;
  }
  setsockopt(r->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = r};
  epoll_ctl(poller, EPOLL_CTL_ADD, r->fd, &event);
}

static void ask(reader *r) {
  r->start_at = 0;
  if (r->fd < 0) connect_to_server(r);
  if (r->fd < 0) return;
  r->seen = r->done = 0;
  r->tail_used = 0;
  r->asked_at = now_ns();
  if (send(r->fd, request, request_length, MSG_NOSIGNAL) != (ssize_t)request_length) fail(r, "send", "");
}

static void chunk(reader *r, uint64_t stamp, uint64_t now) {
  if (measuring(now)) {
    chunks++;
    note(&relay, stamp, now);
    if (!r->seen) note(&ttft, r->asked_at, now);
  }
  r->seen++;
}

/* Take in text[0..length), which begins with the tail of before; keep what may be half of something. */
static void scan(reader *r, char *text, size_t length, uint64_t now) {
  char *at = text, *end = text + length;
  while ((at = memchr(at, STAMP, (size_t)(end - at)))) {
    if (end - at <= STAMP_DIGITS) break;
    char digits[STAMP_DIGITS + 1] = {0};
    memcpy(digits, at + 1, STAMP_DIGITS);
    if (strspn(digits, "0123456789") == STAMP_DIGITS) chunk(r, strtoull(digits, 0, 10), now);
    at += 1 + STAMP_DIGITS;
  }
  char *rest = at ? at : end;
  if (memmem(text, length, "[DONE]", 6)) r->done = 1;
  /* The last bytes stay, to find what comes in pieces; a stamp that was counted is not counted again. */
  size_t keep = (size_t)(end - rest);
  if (keep < 8) keep = length < 8 ? length : 8;
  if (keep > TAIL) keep = TAIL;
  memcpy(r->tail, end - keep, keep);
  r->tail_used = keep;
  for (size_t i = 0; rest == end && i < keep; i++)
    if (r->tail[i] == STAMP) r->tail[i] = ' ';
}

static void ended(reader *r) {
  if (measuring(now_ns())) {
    finished++;
    if (r->seen != wanted) short_streams++;
  }
  ask(r);
}

static void receive(reader *r) {
  static char text[TAIL + 65536];
  memcpy(text, r->tail, r->tail_used);
  ssize_t got = recv(r->fd, text + r->tail_used, sizeof text - TAIL - 1, 0);
  uint64_t now = now_ns();
  if (got <= 0) {
    fail(r, "the connection ended", "");
    return;
  }
  size_t length = r->tail_used + (size_t)got;
  text[length] = 0;
  if (!r->seen && !r->tail_used && strncmp(text, "HTTP/1.1 200", 12)) {
    fail(r, "status", text);
    return;
  }
  scan(r, text, length, now);
  if (leave_after && r->seen >= leave_after) {
    hang_up(r);
    left++;
    ask(r);
  } else if (r->done && length >= 5 && !memcmp(text + length - 5, "0\r\n\r\n", 5)) {
    ended(r);
  }
}

static void write_request(const char *key, int pace) {
  char body[512];
  int length = sprintf(body,
      "{\"model\": \"mock\", \"messages\": [{\"role\": \"user\", \"content\": \"Speak with pace=%d.\"}], "
      "\"max_tokens\": %d, \"stream\": true}", pace, wanted);
  request_length = (size_t)snprintf(request, sizeof request,
      "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:%d\r\ncontent-type: application/json\r\n"
      "authorization: Bearer %s\r\ncontent-length: %d\r\n\r\n%s", port, key, length, body);
  if (request_length >= sizeof request) die("the key is too long");
}

static void print_series(const char *name, series *s) {
  qsort(s->values, s->used, sizeof *s->values, ascending);
  printf(", \"%s_p50\": %.4f, \"%s_p99\": %.4f", name, percentile(s, 0.5), name, percentile(s, 0.99));
}

int main(int count, char **words) {
  if (count < 7) {
    fprintf(stderr, "usage: KEY=... streams PORT READERS CHUNKS PACE WARM_UP SECONDS [LEAVE_AFTER]\n");
    return 2;
  }
  signal(SIGPIPE, SIG_IGN);
  port = atoi(words[1]);
  readers = atoi(words[2]);
  wanted = atoi(words[3]);
  int pace = atoi(words[4]);
  double warm_up = atof(words[5]), seconds = atof(words[6]);
  leave_after = count > 7 ? atoi(words[7]) : 0;
  const char *key = getenv("KEY");
  write_request(key ? key : "none", pace);

  poller = epoll_create1(0);
  reader *all = calloc((size_t)readers, sizeof *all);
  if (!all) die("calloc");
  uint64_t begin = now_ns(), spread = (uint64_t)pace * (uint64_t)wanted * 1000000u;
  from = begin + spread + (uint64_t)(warm_up * 1e9);
  until = from + (uint64_t)(seconds * 1e9);
  for (int i = 0; i < readers; i++) {
    all[i].fd = -1;
    all[i].start_at = begin + 1 + spread * (uint64_t)i / (uint64_t)readers;
  }
  int told = 0;
  for (uint64_t now; (now = now_ns()) < until;) {
    if (!told && now >= from) {
      told = puts("START");
      fflush(stdout);
    }
    int next_tick = 100;
    for (int i = 0; i < readers; i++) {
      if (!all[i].start_at) continue;
      if (all[i].start_at <= now) ask(&all[i]);
      else next_tick = 1;
    }
    struct epoll_event events[MAX_EVENTS];
    int ready = epoll_wait(poller, events, MAX_EVENTS, next_tick);
    for (int i = 0; i < ready; i++) receive(events[i].data.ptr);
  }
  puts("END");
  fflush(stdout);
  printf("{\"chunks\": %llu, \"chunks_s\": %.1f, \"asked_s\": %.1f, \"finished\": %llu, \"left\": %llu, "
         "\"errors\": %llu, \"short\": %llu, \"problem\": \"%s\"",
         (unsigned long long)chunks, (double)chunks / seconds, pace ? readers * 1000.0 / pace : 0,
         (unsigned long long)finished, (unsigned long long)left, (unsigned long long)errors,
         (unsigned long long)short_streams, problem);
  print_series("ttft", &ttft);
  print_series("relay", &relay);
  puts("}");
}
