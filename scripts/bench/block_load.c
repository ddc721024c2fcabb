/*
 * Loads block devices and tells how many requests they serve: block_load SECONDS DEVICE... One line for each
 * pattern: its name, the requests, and the nanoseconds that they took. Of several devices, 1, 2, 4 and so on are
 * read at once, with the number behind the name. What is read-only is only read.
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
#include <sys/wait.h>
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

static uint64_t run(int fd, const struct pattern *p, uint64_t size, double seconds) {
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
  for (int i = 0; i < p->depth; i++) free(buffers[i]);
  syscall(SYS_io_destroy, context);
  return done;
}

struct device {
  int fd;
  uint64_t size;
};

static void tell(const char *name, const char *more, uint64_t requests, uint64_t begin) {
  printf("load %s%s %llu %llu\n", name, more, (unsigned long long)requests,
         (unsigned long long)(now_ns() - begin));
  fflush(stdout);
}

/* Drives `count` devices at once, each by a process. */
static void run_together(const struct device *devices, int count, const struct pattern *p,
                         double seconds) {
  int ends[2];
  uint64_t begin = now_ns(), total = 0;
  if (pipe(ends)) fail("pipe");
  for (int i = 0; i < count; i++) {
    pid_t child = fork();
    if (child < 0) fail("fork");
    if (child > 0) continue;
    random_state += i;
    uint64_t done = run(devices[i].fd, p, devices[i].size, seconds);
    _exit(write(ends[1], &done, sizeof done) != sizeof done);
  }
  for (int i = 0; i < count; i++) {
    uint64_t done;
    int status;
    if (wait(&status) < 0 || status != 0) fail("child");
    if (read(ends[0], &done, sizeof done) != sizeof done) fail("read");
    total += done;
  }
  close(ends[0]);
  close(ends[1]);
  char more[16];
  snprintf(more, sizeof more, "-x%d", count);
  tell(p->name, more, total, begin);
}

int main(int argc, char **argv) {
  static struct device devices[16];
  int count = argc - 2;
  if (count < 1 || count > 16) return 2;
  double seconds = atof(argv[1]);
  int writable = 1;
  for (int i = 0; i < count; i++) {
    int read_only = 0;
    devices[i].fd = open(argv[2 + i], O_RDWR | O_DIRECT);
    if (devices[i].fd < 0) fail(argv[2 + i]);
    if (ioctl(devices[i].fd, BLKGETSIZE64, &devices[i].size)) fail("BLKGETSIZE64");
    if (ioctl(devices[i].fd, BLKROGET, &read_only)) fail("BLKROGET");
    if (read_only) writable = 0;
  }
  unsigned number = sizeof patterns / sizeof patterns[0];
  /* First, let translators see the code. */
  for (unsigned i = 0; i < number; i++) {
    if (writable || !patterns[i].writes) run(devices[0].fd, &patterns[i], devices[0].size, 0.5);
  }
  for (unsigned i = 0; i < number; i++) {
    const struct pattern *p = &patterns[i];
    if (p->writes && !writable) continue;
    if (count == 1) {
      uint64_t begin = now_ns();
      tell(p->name, "", run(devices[0].fd, p, devices[0].size, seconds), begin);
      continue;
    }
    if (p->writes) continue;
    for (int some = 1; some <= count; some *= 2) run_together(devices, some, p, seconds);
  }
  puts("load done");
  return 0;
}
