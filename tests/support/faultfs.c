/* A disk that fails on request and writes down what was done to it, for the process that preloads this library.
 *
 * FAULTFS_WATCH   paths that contain this text are watched; no other is touched
 * FAULTFS_RECORD  file that takes a record of each change: see tests/support/disk.py
 * FAULTFS_RULES   file of rules, read again at each call, so that a test can break and mend the disk at any moment:
 *                 `OPERATIONS ERRNO PATH SKIP TIMES`, such as `write,sync 28 -wal 3 1`: of the calls on paths that
 *                 contain PATH ("*" for any), three pass and one fails. TIMES 0 means all further ones. ERRNO 0 makes
 *                 writes short.
 *
 * A sync that fails loses what it should have kept, as the kernel may: the record says so.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { WRITE = 1, SYNC = 2, TRUNCATE = 3, UNLINK = 4, FAILED_SYNC = 5 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char known_rule[512];
static long seen;

static int watched(const char *path) {
  const char *watch = getenv("FAULTFS_WATCH");
  return watch && path && strstr(path, watch) != NULL;
}

static int path_of(int descriptor, char *path) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  ssize_t length = readlink(link, path, PATH_MAX - 1);
  if (length <= 0) return 0;
  path[length] = 0;
  return watched(path);
}

static void record(uint8_t kind, const char *path, int64_t offset, int64_t length, const void *data) {
  const char *name = getenv("FAULTFS_RECORD");
  if (!name) return;
  const char *base = strrchr(path, '/');
  base = base ? base + 1 : path;
  uint16_t base_length = (uint16_t)strlen(base);
  size_t body = kind == WRITE ? (size_t)length : 0, total = 19 + base_length + body;
  char *out = malloc(total);
  memcpy(out, &kind, 1);
  memcpy(out + 1, &base_length, 2);
  memcpy(out + 3, &offset, 8);
  memcpy(out + 11, &length, 8);
  memcpy(out + 19, base, base_length);
  if (body) memcpy(out + 19 + base_length, data, body);
  int descriptor = (int)syscall(SYS_openat, AT_FDCWD, name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (descriptor < 0 || syscall(SYS_write, descriptor, out, total) != (long)total) abort();
  syscall(SYS_close, descriptor);
  free(out);
}

/* Returns -1 to go on, 0 for a short write, or the errno to fail with. Called with the lock held. */
static int verdict(const char *operation, const char *path) {
  const char *name = getenv("FAULTFS_RULES");
  char text[512], operations[64], where[256];
  int number;
  long skip, times;
  if (!name) return -1;
  int descriptor = (int)syscall(SYS_openat, AT_FDCWD, name, O_RDONLY | O_CLOEXEC, 0);
  if (descriptor < 0) {
    known_rule[0] = 0;
    return -1;
  }
  long length = syscall(SYS_read, descriptor, text, sizeof text - 1);
  syscall(SYS_close, descriptor);
  text[length > 0 ? length : 0] = 0;
  if (strcmp(text, known_rule) != 0) {
    strcpy(known_rule, text);
    seen = 0;
  }
  if (sscanf(text, "%63s %d %255s %ld %ld", operations, &number, where, &skip, &times) != 5) return -1;
  if (!strstr(operations, operation) || (strcmp(where, "*") != 0 && !strstr(path, where))) return -1;
  seen++;
  if (seen <= skip || (times && seen > skip + times)) return -1;
  return number;
}

static ssize_t written(int descriptor, const void *data, size_t length, off_t offset, int positioned) {
  char path[PATH_MAX];
  int saved = errno;
  if (!path_of(descriptor, path)) {
    errno = saved;
    return positioned ? syscall(SYS_pwrite64, descriptor, data, length, offset)
                      : syscall(SYS_write, descriptor, data, length);
  }
  pthread_mutex_lock(&lock);
  int fault = verdict("write", path);
  if (fault > 0) {
    pthread_mutex_unlock(&lock);
    errno = fault;
    return -1;
  }
  if (fault == 0 && length > 1) length /= 2;
  if (!positioned) {
    int flags = fcntl(descriptor, F_GETFL);
    offset = lseek(descriptor, 0, flags >= 0 && (flags & O_APPEND) ? SEEK_END : SEEK_CUR);
  }
  errno = saved;
  ssize_t done = positioned ? syscall(SYS_pwrite64, descriptor, data, length, offset)
                            : syscall(SYS_write, descriptor, data, length);
  saved = errno;
  if (done > 0) record(WRITE, path, offset, done, data);
  pthread_mutex_unlock(&lock);
  errno = saved;
  return done;
}

static int synced(int descriptor, long call) {
  char path[PATH_MAX];
  int saved = errno;
  if (!path_of(descriptor, path)) {
    errno = saved;
    return (int)syscall(call, descriptor);
  }
  pthread_mutex_lock(&lock);
  int fault = verdict("sync", path), done = 0;
  if (fault > 0) {
    record(FAILED_SYNC, path, 0, 0, NULL);
    done = -1;
    saved = fault;
  } else {
    done = (int)syscall(call, descriptor);
    saved = done ? errno : saved;
    record(SYNC, path, 0, 0, NULL);
  }
  pthread_mutex_unlock(&lock);
  errno = saved;
  return done;
}

static int truncated(int descriptor, off_t length) {
  char path[PATH_MAX];
  int saved = errno;
  if (!path_of(descriptor, path)) {
    errno = saved;
    return (int)syscall(SYS_ftruncate, descriptor, length);
  }
  pthread_mutex_lock(&lock);
  int fault = verdict("truncate", path), done = -1;
  if (fault > 0) {
    saved = fault;
  } else {
    done = (int)syscall(SYS_ftruncate, descriptor, length);
    saved = done ? errno : saved;
    if (!done) record(TRUNCATE, path, 0, length, NULL);
  }
  pthread_mutex_unlock(&lock);
  errno = saved;
  return done;
}

ssize_t write(int descriptor, const void *data, size_t length) { return written(descriptor, data, length, 0, 0); }
ssize_t pwrite(int descriptor, const void *data, size_t length, off_t offset) {
  return written(descriptor, data, length, offset, 1);
}
ssize_t pwrite64(int descriptor, const void *data, size_t length, off64_t offset) {
  return written(descriptor, data, length, offset, 1);
}
int fsync(int descriptor) { return synced(descriptor, SYS_fsync); }
int fdatasync(int descriptor) { return synced(descriptor, SYS_fdatasync); }
int ftruncate(int descriptor, off_t length) { return truncated(descriptor, length); }
int ftruncate64(int descriptor, off64_t length) { return truncated(descriptor, length); }

int unlink(const char *path) {
  int done = (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
  if (!done && watched(path)) {
    pthread_mutex_lock(&lock);
    record(UNLINK, path, 0, 0, NULL);
    pthread_mutex_unlock(&lock);
  }
  return done;
}

static int opened(int folder, const char *path, int flags, mode_t mode) {
  if ((flags & O_CREAT) && watched(path)) {
    pthread_mutex_lock(&lock);
    int fault = access(path, F_OK) ? verdict("create", path) : -1;
    pthread_mutex_unlock(&lock);
    if (fault > 0) {
      errno = fault;
      return -1;
    }
  }
  return (int)syscall(SYS_openat, folder, path, flags, mode);
}

int open(const char *path, int flags, ...) {
  __builtin_va_list rest;
  __builtin_va_start(rest, flags);
  mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? (mode_t)__builtin_va_arg(rest, int) : 0;
  __builtin_va_end(rest);
  return opened(AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...) {
  __builtin_va_list rest;
  __builtin_va_start(rest, flags);
  mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? (mode_t)__builtin_va_arg(rest, int) : 0;
  __builtin_va_end(rest);
  return opened(AT_FDCWD, path, flags | O_LARGEFILE, mode);
}
