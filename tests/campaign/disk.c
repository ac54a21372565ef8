/* A disk between a store and the system's, by LD_PRELOAD: it writes down what becomes of each file jobs.mdb, and fails
 * when it is told to.
 *
 * PARK_DISK_LOG: a file to which each entry is appended: a letter, offset and length (8 bytes each, native), the data.
 *   w a write; m a write that is on disk when it returns (O_DSYNC); s all before is on disk; t the length is now OFFSET.
 * PARK_DISK_MOOD: a file. While its first letter is
 *   e   a sync, or a write that would be one, is an I/O error;
 *   k   the process is killed instead of its next sync;  m   ... instead of its next write of a root page;
 *   d   each megabyte that is written takes half a second longer;
 *   q   the user's quota is used up: a write beyond the 8th megabyte is refused.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static int store(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 8) return 0;
    path[n] = 0;
    return strcmp(path + n - 8, "jobs.mdb") == 0;
}

static char mood(void) {
    const char *name = getenv("PARK_DISK_MOOD");
    char c = 0;
    int fd = name ? open(name, O_RDONLY) : -1;
    if (fd < 0) return 0;
    if (read(fd, &c, 1) != 1) c = 0;
    close(fd);
    return c;
}

static void note(char kind, uint64_t offset, const struct iovec *data, int count, uint64_t length) {
    const char *name = getenv("PARK_DISK_LOG");
    int fd = name ? open(name, O_WRONLY | O_APPEND | O_CREAT, 0600) : -1;
    if (fd < 0) return;
    char *entry = malloc(17 + length), *at = entry;
    *at++ = kind;
    memcpy(at, &offset, 8), at += 8;
    memcpy(at, &length, 8), at += 8;
    for (int i = 0; i < count && length; i++) {
        size_t part = data[i].iov_len < length ? data[i].iov_len : length;
        memcpy(at, data[i].iov_base, part);
        at += part, length -= part;
    }
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = dlsym(RTLD_NEXT, "write");
    if (real(fd, entry, at - entry) != at - entry) abort();
    free(entry);
    close(fd);
}

static int refused(off_t offset) {
    if (offset < (8 << 20) || mood() != 'q') return 0;
    errno = EDQUOT;
    return 1;
}

static void delay(size_t size) {
    if (size >= 1 << 16 && mood() == 'd') usleep(size / 2);
}

static int synced(int fd) { return fcntl(fd, F_GETFL) & O_DSYNC; }

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    static ssize_t (*real)(int, const void *, size_t, off_t);
    if (!real) real = dlsym(RTLD_NEXT, "pwrite");
    if (!store(fd)) return real(fd, data, size, offset);
    if (synced(fd)) {
        char now = mood();
        if (now == 'm') raise(SIGKILL);
        if (now == 'e') return errno = EIO, -1;
    }
    if (refused(offset)) return -1;
    delay(size);
    ssize_t done = real(fd, data, size, offset);
    struct iovec whole = {(void *)data, size};
    if (done > 0) note(synced(fd) ? 'm' : 'w', offset, &whole, 1, done);
    return done;
}

ssize_t writev(int fd, const struct iovec *data, int count) {
    static ssize_t (*real)(int, const struct iovec *, int);
    if (!real) real = dlsym(RTLD_NEXT, "writev");
    if (!store(fd)) return real(fd, data, count);
    off_t offset = lseek(fd, 0, SEEK_CUR);
    if (refused(offset)) return -1;
    size_t size = 0;
    for (int i = 0; i < count; i++) size += data[i].iov_len;
    delay(size);
    ssize_t done = real(fd, data, count);
    if (done > 0) note('w', offset, data, count, done);
    return done;
}

static int sync_by(const char *name, int fd) {
    int (*real)(int) = dlsym(RTLD_NEXT, name);
    if (!store(fd)) return real(fd);
    char now = mood();
    if (now == 'k') raise(SIGKILL);
    if (now == 'e') return errno = EIO, -1;
    int done = real(fd);
    if (done == 0) note('s', 0, NULL, 0, 0);
    return done;
}

int fdatasync(int fd) { return sync_by("fdatasync", fd); }

int fsync(int fd) { return sync_by("fsync", fd); }

int ftruncate(int fd, off_t length) {
    static int (*real)(int, off_t);
    if (!real) real = dlsym(RTLD_NEXT, "ftruncate");
    int done = real(fd, length);
    if (done == 0 && store(fd)) note('t', length, NULL, 0, 0);
    return done;
}
