/* A wall clock that is wrong by the seconds in the file WRONGCLOCK_FILE, read again each time. Intervals stay right. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long offset(void) {
  const char *name = getenv("WRONGCLOCK_FILE");
  char text[32];
  if (!name) return 0;
  int descriptor = (int)syscall(SYS_openat, AT_FDCWD, name, O_RDONLY | O_CLOEXEC, 0);
  if (descriptor < 0) return 0;
  long length = syscall(SYS_read, descriptor, text, sizeof text - 1);
  syscall(SYS_close, descriptor);
  text[length > 0 ? length : 0] = 0;
  return atol(text);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  int done = (int)syscall(SYS_clock_gettime, clock, now);
  if (!done && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += offset();
  return done;
}

int gettimeofday(struct timeval *now, void *zone) {
  int done = (int)syscall(SYS_gettimeofday, now, zone);
  if (!done) now->tv_sec += offset();
  return done;
}

time_t time(time_t *place) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (place) *place = now.tv_sec;
  return now.tv_sec;
}

/* Whoever waits until a moment of this clock waits for as long as it means; the kernel's clock is the right one. */
int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *limit) {
  static int (*real)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
  if (!real) { /* x86-64 has an older function of that name as well, which is what dlsym would find */
    void *found = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    if (!found) found = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    real = (int (*)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *))found;
  }
  struct timespec right = *limit;
  if (right.tv_sec > 1000000000) right.tv_sec -= offset();
  return real(condition, mutex, &right);
}
