/* Loaded before libc (LD_PRELOAD) into every process of a run: makes changes of files fail, and sets the clock wrong.

   CHAOS_MATCH   only files whose path contains this
   CHAOS_ERRNO   the error, as a number
   CHAOS_FIRST   which matching call of a process is the first to fail, counted from 0
   CHAOS_COUNT   how many fail from there on; -1: all
   CHAOS_HALF    if set, the first write that fails writes half of its bytes and says so, as on a disk that becomes full
   CHAOS_FAILED  append "CALL PATH" for each failure
   CHAOS_CLOCK_S by how much the clock is wrong

   What counts are calls that change something: open to create or truncate, write, fsync, rename, link, symlink, mkdir;
   and for EROFS unlink and rmdir, which need no room. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long calls, halved;

static void *next(const char *name)
{
    return dlsym(RTLD_NEXT, name);
}

static long number(const char *name, long otherwise)
{
    const char *text = getenv(name);
    return text ? atol(text) : otherwise;
}

/* Whether this call on `path` has to fail; errno is then set. */
static int fails(const char *call, const char *path)
{
    const char *match = getenv("CHAOS_MATCH"), *failed = getenv("CHAOS_FAILED");
    if (!match || !path || !strstr(path, match))
        return 0;
    long place = __atomic_fetch_add(&calls, 1, __ATOMIC_SEQ_CST) - number("CHAOS_FIRST", 0);
    long count = number("CHAOS_COUNT", -1);
    if (place < 0 || (count >= 0 && place >= count))
        return 0;
    if (failed) {
        char line[PATH_MAX + 64];
        int size = snprintf(line, sizeof line, "%s %s\n", call, path);
        int fd = syscall(SYS_openat, AT_FDCWD, failed, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
        if (fd >= 0 && size > 0)
            syscall(SYS_write, fd, line, (size_t)size);
        close(fd);
    }
    errno = number("CHAOS_ERRNO", EIO);
    return 1;
}

/* The path of an open file, or NULL. */
static const char *path_of(int fd, char *path)
{
    char link[64];
    int errno_before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, PATH_MAX - 1);
    errno = errno_before;
    if (size < 0)
        return NULL;
    path[size] = 0;
    return path;
}

static int fails_on(const char *call, int fd)
{
    char path[PATH_MAX];
    return getenv("CHAOS_MATCH") && fails(call, path_of(fd, path));
}

/* A path given beside a folder, as renameat and its like take it. */
static int fails_at(const char *call, int folder, const char *path)
{
    char place[PATH_MAX], whole[2 * PATH_MAX];
    if (!getenv("CHAOS_MATCH") || !path)
        return 0;
    if (path[0] == '/' || folder == AT_FDCWD || !path_of(folder, place))
        return fails(call, path);
    snprintf(whole, sizeof whole, "%s/%s", place, path);
    return fails(call, whole);
}

#define MODE(flags, mode)                         \
    mode_t mode = 0;                              \
    if ((flags) & (O_CREAT | __O_TMPFILE)) {      \
        va_list list;                             \
        va_start(list, flags);                    \
        mode = (mode_t)va_arg(list, unsigned);    \
        va_end(list);                             \
    }

#define OPEN(name)                                                               \
    int name(const char *path, int flags, ...)                                   \
    {                                                                            \
        MODE(flags, mode)                                                        \
        if ((flags & (O_CREAT | O_TRUNC)) && fails("open", path))                \
            return -1;                                                           \
        return ((int (*)(const char *, int, ...))next(#name))(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                          \
    int name(int folder, const char *path, int flags, ...)                                    \
    {                                                                                         \
        MODE(flags, mode)                                                                     \
        if ((flags & (O_CREAT | O_TRUNC)) && fails_at("open", folder, path))                  \
            return -1;                                                                        \
        return ((int (*)(int, const char *, int, ...))next(#name))(folder, path, flags, mode); \
    }
OPENAT(openat)
OPENAT(openat64)

ssize_t write(int fd, const void *from, size_t size)
{
    if (fails_on("write", fd)) {
        if (!getenv("CHAOS_HALF") || size < 2 || __atomic_exchange_n(&halved, 1, __ATOMIC_SEQ_CST))
            return -1;
        size /= 2;
    }
    return ((ssize_t(*)(int, const void *, size_t))next("write"))(fd, from, size);
}

int fsync(int fd)
{
    return fails_on("fsync", fd) ? -1 : ((int (*)(int))next("fsync"))(fd);
}

#define TWO_PATHS(name)                                                              \
    int name(const char *from, const char *to)                                       \
    {                                                                                \
        return fails(#name, to) ? -1 : ((int (*)(const char *, const char *))next(#name))(from, to); \
    }
TWO_PATHS(rename)
TWO_PATHS(link)
TWO_PATHS(symlink)

int renameat(int from_folder, const char *from, int to_folder, const char *to)
{
    typedef int (*renameat_t)(int, const char *, int, const char *);
    return fails_at("rename", to_folder, to) ? -1 : ((renameat_t)next("renameat"))(from_folder, from, to_folder, to);
}

int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags)
{
    typedef int (*linkat_t)(int, const char *, int, const char *, int);
    return fails_at("link", to_folder, to) ? -1 : ((linkat_t)next("linkat"))(from_folder, from, to_folder, to, flags);
}

int mkdir(const char *path, mode_t mode)
{
    return fails("mkdir", path) ? -1 : ((int (*)(const char *, mode_t))next("mkdir"))(path, mode);
}

static int read_only(void)
{
    return number("CHAOS_ERRNO", 0) == EROFS;
}

int unlink(const char *path)
{
    return read_only() && fails("unlink", path) ? -1 : ((int (*)(const char *))next("unlink"))(path);
}

int rmdir(const char *path)
{
    return read_only() && fails("rmdir", path) ? -1 : ((int (*)(const char *))next("rmdir"))(path);
}

int unlinkat(int folder, const char *path, int flags)
{
    if (read_only() && fails_at("unlink", folder, path))
        return -1;
    return ((int (*)(int, const char *, int))next("unlinkat"))(folder, path, flags);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int result = ((int (*)(clockid_t, struct timespec *))next("clock_gettime"))(clock, now);
    if (!result && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += number("CHAOS_CLOCK_S", 0);
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    int result = ((int (*)(struct timeval *, void *))next("gettimeofday"))(now, zone);
    if (!result)
        now->tv_sec += number("CHAOS_CLOCK_S", 0);
    return result;
}

time_t time(time_t *now)
{
    time_t result = ((time_t(*)(time_t *))next("time"))(NULL) + number("CHAOS_CLOCK_S", 0);
    if (now)
        *now = result;
    return result;
}
