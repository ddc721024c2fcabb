/*
 * Loads a block device and tells how many requests it serves: block_load DEVICE SECONDS. One line for each
 * pattern: its name, the requests, and the nanoseconds that they took.
 *
 * Static and without libaio, so that it runs in an initramfs.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MAX_DEPTH 32

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static uint64_t random_state = 88172645463325252ull;

static uint64_t next_random(void) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state;
}

struct pattern {
  const char *name;
  int writes;
  int random;
  int depth;
  uint32_t bytes;
};

static const struct pattern patterns[] = {
  { "read-1m", 0, 0, 1, 1 << 20 },       { "write-1m", 1, 0, 1, 1 << 20 },
  { "read-4k-qd1", 0, 1, 1, 4096 },      { "write-4k-qd1", 1, 1, 1, 4096 },
  { "read-4k-qd32", 0, 1, 32, 4096 },    { "write-4k-qd32", 1, 1, 32, 4096 },
};

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static void run(int fd, const struct pattern *p, uint64_t size, double seconds, int warm) {
  static struct iocb control[MAX_DEPTH];
  static void *buffers[MAX_DEPTH];
  struct io_event events[MAX_DEPTH];
  aio_context_t context = 0;
  uint64_t blocks = size / p->bytes, sequence = 0, done = 0;
  if (syscall(SYS_io_setup, MAX_DEPTH, &context)) fail("io_setup");
  uint64_t begin = now_ns(), end = begin + (uint64_t)(seconds * 1e9);
  int in_flight = 0;
  for (int i = 0; i < p->depth; i++) {
    if (posix_memalign(&buffers[i], 4096, p->bytes)) fail("posix_memalign");
    memset(buffers[i], i, p->bytes);
  }
  int free_slots[MAX_DEPTH], free_count = p->depth;
  for (int i = 0; i < p->depth; i++) free_slots[i] = i;
  while (now_ns() < end || in_flight > 0) {
    struct iocb *batch[MAX_DEPTH];
    int count = 0;
    while (free_count > 0 && now_ns() < end) {
      int slot = free_slots[--free_count];
      struct iocb *c = &control[slot];
      memset(c, 0, sizeof *c);
      c->aio_fildes = fd;
      c->aio_lio_opcode = p->writes ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
      c->aio_buf = (uint64_t)(uintptr_t)buffers[slot];
      c->aio_nbytes = p->bytes;
      c->aio_offset = (p->random ? next_random() : sequence++) % blocks * p->bytes;
      c->aio_data = slot;
      batch[count++] = c;
    }
    if (count > 0) {
      if (syscall(SYS_io_submit, context, count, batch) != count) fail("io_submit");
      in_flight += count;
    }
    if (in_flight == 0) break;
    int got = syscall(SYS_io_getevents, context, 1, MAX_DEPTH, events, NULL);
    if (got <= 0) fail("io_getevents");
    for (int i = 0; i < got; i++) {
      if (events[i].res != (int64_t)p->bytes) fail("request");
      free_slots[free_count++] = events[i].data;
    }
    in_flight -= got;
    done += got;
  }
  if (!warm) printf("load %s %llu %llu\n", p->name, (unsigned long long)done,
         (unsigned long long)(now_ns() - begin));
  fflush(stdout);
  for (int i = 0; i < p->depth; i++) free(buffers[i]);
  syscall(SYS_io_destroy, context);
}

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  int fd = open(argv[1], O_RDWR | O_DIRECT);
  if (fd < 0) fail(argv[1]);
  uint64_t size;
  if (ioctl(fd, BLKGETSIZE64, &size)) fail("BLKGETSIZE64");
  /* First, let translators see the code. */
  for (int warm = 1; warm >= 0; warm--) {
    for (unsigned i = 0; i < sizeof patterns / sizeof patterns[0]; i++) {
      run(fd, &patterns[i], size, warm ? 0.5 : atof(argv[2]), warm);
    }
  }
  puts("load done");
  return 0;
}
