/* What the benchmark's backend and its load client share: time, and what a chunk looks like. */
#ifndef COMMON_H
#define COMMON_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define STAMP '@'        /* Before the stamp in a chunk's text. */
#define STAMP_DIGITS 19  /* Nanoseconds of CLOCK_MONOTONIC, with leading zeros. */

static inline uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline void die(const char *what) {
  perror(what);
  exit(1);
}

static inline void *grow(void *memory, size_t size) {
  memory = realloc(memory, size);
  if (!memory) die("realloc");
  return memory;
}

#endif
