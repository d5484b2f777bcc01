/* Loaded before libc (LD_PRELOAD) into a rank: counts the reads of files, and makes some of them fail.

   It stands between GDAL, Python and libc, so it sees what the reader under test really does, not what it says.

   EDGE_PROCESS  only a process with this command line argument is touched
   EDGE_MATCH    only files whose path contains this
   EDGE_LOG      append "read PATH OFFSET ASKED" for each read, "kernel PATH BYTES" for what the kernel was asked for,
                 "decode PATH" for each call of the deflate decoder (PATH: the file that was read last)
   EDGE_FAIL     which reads of each such file fail, counted from 0: "0,3"; "all"
   EDGE_CALL     count and fail only reads by this function: "fread", which GDAL uses and Python does not
   EDGE_FAILED   append "PATH" for each failure
   EDGE_DELAY_MS how long each read takes more than it does

   A failing read is real: for its time the descriptor points to address 0 of the process's own memory, where the
   kernel itself answers EIO. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FILES 256

typedef ssize_t (*read_t)(int, void *, size_t);
typedef ssize_t (*pread_t)(int, void *, size_t, off_t);
typedef size_t (*fread_t)(void *, size_t, size_t, FILE *);
typedef int (*fseek_t)(FILE *, off_t, int);

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int active;
static const char *match, *fail, *call;
static int log_fd = -1, failed_fd = -1;
static long delay_ms;
static struct { char path[PATH_MAX]; long reads; } files[FILES];
static __thread char last[PATH_MAX];
static __thread int inside; /* a call that this file makes itself */

static void *next(const char *name)
{
    return dlsym(RTLD_NEXT, name);
}

static void start(void)
{
    char arguments[4096];
    const char *process = getenv("EDGE_PROCESS");
    int fd = open("/proc/self/cmdline", O_RDONLY);
    ssize_t size = syscall(SYS_read, fd, arguments, sizeof arguments - 1);
    close(fd);
    match = getenv("EDGE_MATCH");
    fail = getenv("EDGE_FAIL");
    call = getenv("EDGE_CALL");
    for (ssize_t i = 0; process && match && i < size; i += strlen(arguments + i) + 1) {
        arguments[size] = 0;
        active |= !strcmp(arguments + i, process);
    }
    delay_ms = getenv("EDGE_DELAY_MS") ? atol(getenv("EDGE_DELAY_MS")) : 0;
    if (active && getenv("EDGE_LOG"))
        log_fd = open(getenv("EDGE_LOG"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (active && getenv("EDGE_FAILED"))
        failed_fd = open(getenv("EDGE_FAILED"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
}

/* Whether a descriptor is one of the files in question; `last` is then its path. */
static int concerns(int fd)
{
    char link[64], path[PATH_MAX];
    int errno_before = errno;
    pthread_once(&once, start);
    if (!active || inside || fd < 0)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    errno = errno_before;
    if (size < 0)
        return 0;
    path[size] = 0;
    if (!strstr(path, match))
        return 0;
    strcpy(last, path);
    return 1;
}

/* Bytes that this thread has asked the kernel for, -1 where the kernel does not say; `cost` is what asking adds. */
static long long asked_so_far(int *cost)
{
    char text[512], *found;
    int fd = open("/proc/thread-self/io", O_RDONLY);
    ssize_t size = fd < 0 ? -1 : syscall(SYS_read, fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    *cost = size > 0 ? (int)size : 0;
    if (size <= 0)
        return -1;
    text[size] = 0;
    found = strstr(text, "rchar:");
    return found ? atoll(found + 6) : -1;
}

static void note_kernel(long long before, int cost)
{
    int ignored;
    long long after = asked_so_far(&ignored);
    if (before >= 0 && after - before - cost > 0)
        dprintf(log_fd, "kernel %s %lld\n", last, after - before - cost);
}

/* Counts a read of `last` by `function`, and takes its time; whether this one has to fail. */
static int fails(const char *function)
{
    long number = -1;
    usleep(1000 * delay_ms);
    if (!fail || (call && strcmp(call, function)))
        return 0;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < FILES && number < 0; i++) {
        if (!files[i].path[0])
            strcpy(files[i].path, last);
        if (!strcmp(files[i].path, last))
            number = files[i].reads++;
    }
    pthread_mutex_unlock(&lock);
    if (!strcmp(fail, "all"))
        return 1;
    for (const char *item = fail; item; item = strchr(item, ',') ? strchr(item, ',') + 1 : NULL)
        if (atol(item) == number)
            return 1;
    return 0;
}

/* Point `fd` to where every read is an EIO; returns a copy of what it was. */
static int poison(int fd)
{
    int kept = dup(fd), memory = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
    dup2(memory, fd);
    close(memory);
    if (failed_fd >= 0)
        dprintf(failed_fd, "%s\n", last);
    return kept;
}

static void heal(int fd, int kept)
{
    int errno_of_the_read = errno;
    dup2(kept, fd);
    close(kept);
    errno = errno_of_the_read;
}

ssize_t read(int fd, void *to, size_t size)
{
    read_t real = (read_t)next("read");
    if (!concerns(fd))
        return real(fd, to, size);
    if (log_fd >= 0)
        dprintf(log_fd, "read %s %lld %zu\nkernel %s %zu\n", last, (long long)lseek(fd, 0, SEEK_CUR), size, last, size);
    int kept = fails("read") ? poison(fd) : -1;
    ssize_t result = real(fd, to, size);
    if (kept >= 0)
        heal(fd, kept);
    return result;
}

ssize_t pread64(int fd, void *to, size_t size, off_t offset)
{
    pread_t real = (pread_t)next("pread64");
    if (!concerns(fd))
        return real(fd, to, size, offset);
    if (log_fd >= 0)
        dprintf(log_fd, "read %s %lld %zu\nkernel %s %zu\n", last, (long long)offset, size, last, size);
    int kept = fails("pread") ? poison(fd) : -1;
    ssize_t result = real(fd, to, size, kept >= 0 ? 0 : offset);
    if (kept >= 0)
        heal(fd, kept);
    return result;
}

ssize_t pread(int fd, void *to, size_t size, off_t offset)
{
    return pread64(fd, to, size, offset);
}

size_t fread(void *to, size_t size, size_t count, FILE *file)
{
    fread_t real = (fread_t)next("fread");
    int fd = fileno(file), cost;
    if (!concerns(fd))
        return real(to, size, count, file);
    inside = 1;
    long long before = log_fd >= 0 ? asked_so_far(&cost) : -1;
    if (log_fd >= 0)
        dprintf(log_fd, "read %s %lld %zu\n", last, (long long)ftello(file), size * count);
    int kept = fails("fread") ? poison(fd) : -1;
    size_t result = real(to, size, count, file);
    if (kept >= 0)
        heal(fd, kept);
    if (log_fd >= 0)
        note_kernel(before, cost);
    inside = 0;
    return result;
}

/* stdio reads a page when it seeks */
int fseeko64(FILE *file, off_t offset, int whence)
{
    fseek_t real = (fseek_t)next("fseeko64");
    int cost;
    if (!concerns(fileno(file)) || log_fd < 0)
        return real(file, offset, whence);
    long long before = asked_so_far(&cost);
    int result = real(file, offset, whence);
    note_kernel(before, cost);
    return result;
}

/* The decoder of deflate that libtiff calls; the real one is a library of its caller's. */
int libdeflate_zlib_decompress(void *decoder, const void *in, size_t in_size, void *out, size_t out_size, size_t *n)
{
    typedef int (*decompress_t)(void *, const void *, size_t, void *, size_t, size_t *);
    Dl_info caller;
    decompress_t real = NULL;
    if (dladdr(__builtin_return_address(0), &caller)) {
        void *library = dlopen(caller.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
        real = (decompress_t)dlsym(library, "libdeflate_zlib_decompress");
        dlclose(library);
    }
    if (!real)
        abort();
    if (active && log_fd >= 0)
        dprintf(log_fd, "decode %s\n", last);
    return real(decoder, in, in_size, out, out_size, n);
}
