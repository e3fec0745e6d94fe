/* A model server that costs nothing: it speaks llama_cpp.server's side of the API from one thread.
 *
 *   backend PORT
 *
 *   POST *        one JSON document, or with "stream":true an event stream of max_tokens chunks
 *   GET /stats    counters as JSON
 *
 * A prompt that holds "pace=N" has a chunk every N milliseconds. Without it all chunks come at
 * once, in one write. Prompts, unlike headers or seeds, reach a backend through every proxy.
 */
#define _GNU_SOURCE
#include "common.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_EVENTS = 256, MAX_REQUEST = 1 << 20, CHUNK_SIZE = 512 };

typedef struct connection {
  int fd;
  int place; /* in the heap of paced streams; -1 when in none */
  int left;  /* chunks */
  uint64_t due, pace;
  char *in, *out;
  size_t in_used, in_size, out_used, out_sent, out_size;
  struct connection *next_dead;
} connection;

static int poller;
static connection **heap, *dead;
static int heap_used, heap_size;
static uint64_t opened, open_now, requests, streams, chunks, cancelled;

/* -- the heap: whose chunk is due next ------------------------------------------------------- */

static void put_at(int place, connection *c) {
  heap[place] = c;
  c->place = place;
}

static void sift_up(int place) {
  connection *c = heap[place];
  for (; place && heap[(place - 1) / 2]->due > c->due; place = (place - 1) / 2)
    put_at(place, heap[(place - 1) / 2]);
  put_at(place, c);
}

static void sift_down(int place) {
  connection *c = heap[place];
  for (int child; (child = 2 * place + 1) < heap_used; place = child) {
    if (child + 1 < heap_used && heap[child + 1]->due < heap[child]->due) child++;
    if (heap[child]->due >= c->due) break;
    put_at(place, heap[child]);
  }
  put_at(place, c);
}

static void schedule(connection *c) {
  if (heap_used == heap_size) {
    heap_size = heap_size ? 2 * heap_size : 256;
    heap = grow(heap, (size_t)heap_size * sizeof *heap);
  }
  put_at(heap_used++, c);
  sift_up(c->place);
}

static void unschedule(connection *c) {
  int place = c->place;
  if (place < 0) return;
  c->place = -1;
  connection *last = heap[--heap_used];
  if (last == c) return;
  put_at(place, last);
  sift_up(place);
  sift_down(last->place);
}

/* -- a connection's bytes -------------------------------------------------------------------- */

static void drop(connection *c) {
  if (c->fd < 0) return;
  if (c->left) cancelled++;
  unschedule(c);
  close(c->fd);
  open_now--;
  c->fd = -1;
  c->next_dead = dead; /* Freed after this turn: its event may still be in the list. */
  dead = c;
}

static void watch(connection *c, uint32_t events, int how) {
  struct epoll_event event = {.events = events, .data.ptr = c};
  epoll_ctl(poller, how, c->fd, &event);
}

static void flush(connection *c) {
  while (c->out_sent < c->out_used) {
    ssize_t sent = send(c->fd, c->out + c->out_sent, c->out_used - c->out_sent, MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno == EAGAIN) watch(c, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
      else drop(c);
      return;
    }
    c->out_sent += (size_t)sent;
  }
  c->out_sent = c->out_used = 0;
}

static void say(connection *c, const char *text, size_t length) {
  if (c->out_used + length > c->out_size)
    c->out = grow(c->out, c->out_size = 2 * (c->out_used + length));
  memcpy(c->out + c->out_used, text, length);
  c->out_used += length;
}

static void say_chunk(connection *c, const char *event, size_t length) {
  char head[16];
  say(c, head, (size_t)sprintf(head, "%zx\r\n", length));
  say(c, event, length);
  say(c, "\r\n", 2);
}

static void say_document(connection *c, const char *body, size_t length) {
  char head[128];
  say(c, head, (size_t)sprintf(head, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n", length));
  say(c, body, length);
}

/* -- answers --------------------------------------------------------------------------------- */

#define USAGE "\"usage\": {\"prompt_tokens\": 24, \"completion_tokens\": 16, \"total_tokens\": 40}"
#define EVENT "data: {\"id\": \"chatcmpl-6f1c1a52-9c0b-4b0e-8f2d-0a4f6f0d2b1e\", \"model\": \"mock\", " \
  "\"created\": 1700000000, \"object\": \"chat.completion.chunk\", \"choices\": [{\"index\": 0, \"delta\": {"

static void next_chunk(connection *c) {
  char text[CHUNK_SIZE];
  int length = sprintf(text, EVENT "\"content\": \" %c%019llu\"}, \"logprobs\": null, \"finish_reason\": null}]}\n\n",
                       STAMP, (unsigned long long)now_ns());
  say_chunk(c, text, (size_t)length);
  chunks++;
  if (--c->left) return;
  length = sprintf(text, EVENT "}, \"logprobs\": null, \"finish_reason\": \"stop\"}], " USAGE "}\n\n");
  say_chunk(c, text, (size_t)length);
  say_chunk(c, "data: [DONE]\n\n", 14);
  say(c, "0\r\n\r\n", 5);
}

static void start_stream(connection *c, int count, uint64_t pace) {
  static const char head[] = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
                             "cache-control: no-store\r\ntransfer-encoding: chunked\r\n\r\n";
  streams++;
  c->left = count;
  say(c, head, sizeof head - 1);
  if (!pace) {
    while (c->left) next_chunk(c);
    return;
  }
  c->pace = pace;
  c->due = now_ns();
  schedule(c);
}

static void answer_whole(connection *c) {
  static const char body[] =
      "{\"id\": \"chatcmpl-6f1c1a52-9c0b-4b0e-8f2d-0a4f6f0d2b1e\", \"object\": \"chat.completion\", "
      "\"created\": 1700000000, \"model\": \"mock\", \"choices\": [{\"index\": 0, \"message\": {\"role\": "
      "\"assistant\", \"content\": \"One token after the other, sixteen of them, and then the answer ends."
      "\"}, \"logprobs\": null, \"finish_reason\": \"stop\"}], " USAGE "}";
  say_document(c, body, sizeof body - 1);
}

static void answer_stats(connection *c) {
  char body[256];
  int length = sprintf(body,
      "{\"opened\": %llu, \"open\": %llu, \"requests\": %llu, \"streams\": %llu, \"chunks\": %llu, \"cancelled\": %llu}",
      (unsigned long long)opened, (unsigned long long)open_now, (unsigned long long)requests,
      (unsigned long long)streams, (unsigned long long)chunks, (unsigned long long)cancelled);
  say_document(c, body, (size_t)length);
}

/* -- requests -------------------------------------------------------------------------------- */

/* The whole number behind a word, or a default. */
static long number_after(const char *text, const char *word, long otherwise) {
  const char *at = strcasestr(text, word);
  if (!at) return otherwise;
  at += strlen(word);
  at += strspn(at, "\": ");
  return *at >= '0' && *at <= '9' ? atol(at) : otherwise;
}

static int wants_stream(const char *body) {
  const char *at = strstr(body, "\"stream\"");
  if (!at) return 0;
  at += 8;
  return at[strspn(at, ": ")] == 't';
}

/* Where the body ends that starts here; 0 when it has not come whole yet. */
static char *end_of_body(const char *head, char *body, const char *end) {
  if (!strcasestr(head, "\ntransfer-encoding: chunked")) {
    char *last = body + number_after(head, "\ncontent-length:", 0);
    return last > end ? 0 : last;
  }
  for (char *at = body;;) {
    char *line = memmem(at, (size_t)(end - at), "\r\n", 2);
    if (!line) return 0;
    long size = strtol(at, 0, 16);
    at = line + 2 + size + 2;
    if (at > end) return 0;
    if (!size) return at;
  }
}

/* Answer what has come whole; what comes while a stream runs waits for its end. */
static void serve(connection *c) {
  while (c->fd >= 0 && !c->left && c->in_used) {
    c->in[c->in_used] = 0;
    char *end_of_head = strstr(c->in, "\r\n\r\n");
    if (!end_of_head) return;
    *end_of_head = 0;
    char *body = end_of_head + 4;
    char *end = end_of_body(c->in, body, c->in + c->in_used);
    if (!end) {
      *end_of_head = '\r';
      return;
    }
    requests++;
    char after = *end;
    *end = 0;
    if (!strncmp(c->in, "GET ", 4)) answer_stats(c);
    else if (!wants_stream(body)) answer_whole(c);
    else {
      long count = number_after(body, "\"max_tokens\"", 16);
      long pace = number_after(body, "pace=", 0);
      start_stream(c, count > 0 ? (int)count : 1, (uint64_t)pace * 1000000u);
    }
    *end = after;
    c->in_used -= (size_t)(end - c->in);
    memmove(c->in, end, c->in_used);
    flush(c);
  }
}

static void receive(connection *c) {
  if (c->in_size - c->in_used < 4096) {
    if (c->in_size >= MAX_REQUEST) {
      drop(c);
      return;
    }
    c->in = grow(c->in, c->in_size = c->in_size ? 2 * c->in_size : 8192);
  }
  ssize_t got = recv(c->fd, c->in + c->in_used, c->in_size - c->in_used - 1, 0);
  if (got <= 0) {
    if (!got || errno != EAGAIN) drop(c);
    return;
  }
  c->in_used += (size_t)got;
  serve(c);
}

static void accept_all(int listener) {
  int fd, on = 1;
  while ((fd = accept4(listener, 0, 0, SOCK_NONBLOCK)) >= 0) {
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    connection *c = calloc(1, sizeof *c);
    if (!c) die("calloc");
    c->fd = fd;
    c->place = -1;
    opened++;
    open_now++;
    watch(c, EPOLLIN, EPOLL_CTL_ADD);
  }
}

static void write_due(void) {
  uint64_t now = now_ns();
  while (heap_used && heap[0]->due <= now) {
    connection *c = heap[0];
    next_chunk(c);
    if (c->left) {
      c->due += c->pace;
      sift_down(0);
    } else unschedule(c);
    flush(c);
    serve(c);
  }
}

static void free_dead(void) {
  while (dead) {
    connection *c = dead;
    dead = c->next_dead;
    free(c->in);
    free(c->out);
    free(c);
  }
}

int main(int count, char **words) {
  signal(SIGPIPE, SIG_IGN);
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
  struct sockaddr_in address = {.sin_family = AF_INET,
                                .sin_port = htons((uint16_t)(count > 1 ? atoi(words[1]) : 18080)),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(listener, (void *)&address, sizeof address) || listen(listener, 4096)) die("listen");
  poller = epoll_create1(0);
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = 0}, events[MAX_EVENTS];
  epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
  for (;;) {
    struct timespec wait = {0, 0};
    uint64_t now = now_ns();
    if (heap_used && heap[0]->due > now) {
      uint64_t left = heap[0]->due - now;
      wait.tv_sec = (time_t)(left / 1000000000u);
      wait.tv_nsec = (long)(left % 1000000000u);
    }
    int ready = epoll_pwait2(poller, events, MAX_EVENTS, heap_used ? &wait : 0, 0);
    for (int i = 0; i < ready; i++) {
      connection *c = events[i].data.ptr;
      if (!c) {
        accept_all(listener);
        continue;
      }
      if (c->fd >= 0 && events[i].events & EPOLLOUT) {
        watch(c, EPOLLIN, EPOLL_CTL_MOD);
        flush(c);
      }
      if (c->fd >= 0 && events[i].events & ~(uint32_t)EPOLLOUT) receive(c);
    }
    write_due();
    free_dead();
  }
}
