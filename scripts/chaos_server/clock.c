/* Preloaded, lets the clock of a process jump: CHAOS_CLOCK names a file of jumps, each two numbers of
   64 bits: since when on the real clock, in nanoseconds, and by how much the shown time then is ahead.
   Times of files follow, as they would if the kernel's own clock had jumped. Clocks that only measure
   durations are left alone, as no jump touches them. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define JUMPS 64
#define SECOND 1000000000LL

struct jump {
    int64_t since, ahead;
};

static volatile struct jump *jumps;
static int (*next_fstatat)(int, const char *, struct stat *, int);
static int (*next_fstat)(int, struct stat *);

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CHAOS_CLOCK");
    next_fstatat = dlsym(RTLD_NEXT, "fstatat");
    next_fstat = dlsym(RTLD_NEXT, "fstat");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *found = mmap(NULL, JUMPS * sizeof(struct jump), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (found != MAP_FAILED)
        jumps = found;
}

static void shift(struct timespec *time) {
    int64_t real = time->tv_sec * SECOND + time->tv_nsec, ahead = 0;
    for (int i = 0; jumps && i < JUMPS && jumps[i].since && jumps[i].since <= real; i++)
        ahead = jumps[i].ahead;
    time->tv_sec = (real + ahead) / SECOND;
    time->tv_nsec = (real + ahead) % SECOND;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int failed = syscall(SYS_clock_gettime, clock, time);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        shift(time);
    return failed;
}

int gettimeofday(struct timeval *restrict shown, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    shown->tv_sec = now.tv_sec;
    shown->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *shown) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (shown)
        *shown = now.tv_sec;
    return now.tv_sec;
}

static int shifted(int failed, struct stat *found) {
    if (!failed) {
        shift(&found->st_atim);
        shift(&found->st_mtim);
        shift(&found->st_ctim);
    }
    return failed;
}

int fstatat(int folder, const char *restrict path, struct stat *restrict found, int flags) {
    return shifted(next_fstatat(folder, path, found, flags), found);
}

int fstat(int file, struct stat *found) {
    return shifted(next_fstat(file, found), found);
}

int stat(const char *restrict path, struct stat *restrict found) {
    return fstatat(AT_FDCWD, path, found, 0);
}

int lstat(const char *restrict path, struct stat *restrict found) {
    return fstatat(AT_FDCWD, path, found, AT_SYMLINK_NOFOLLOW);
}

/* Where a long has 64 bits, these are the same under the names for large files. */
#define SAME(name) __attribute__((alias(#name)))
int fstatat64(int, const char *restrict, struct stat64 *restrict, int) SAME(fstatat);
int fstat64(int, struct stat64 *) SAME(fstat);
int stat64(const char *restrict, struct stat64 *restrict) SAME(stat);
int lstat64(const char *restrict, struct stat64 *restrict) SAME(lstat);
