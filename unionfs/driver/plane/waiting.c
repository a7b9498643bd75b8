#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <linux/fuse.h>
#include <poll.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "ahead.h"
#include "waiting.h"

enum {
    LOOK_NANOSECONDS = 40 * 1000,
    LOOKS_IN_VAIN = 8,
    QUEUED_MOST = 4, /* requests in a row that were there already */
    LONG_NANOSECONDS = 300 * 1000,
    LONG_BYTES = 1 << 16,
};

static int device_fd;
static size_t bytes_most;
static atomic_flag led = ATOMIC_FLAG_INIT;
static _Atomic int64_t leader_busy_since; /* 0 while it looks */
static _Atomic uint32_t resigned;         /* how often a leader did */

void waiting_configure(int device, size_t most)
{
    device_fd = device;
    bytes_most = most;
}

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

static bool wait_readable(int milliseconds)
{
    struct pollfd wanted = {.fd = device_fd, .events = POLLIN};
    return poll(&wanted, 1, milliseconds) != 0;
}

static bool lead(struct waiting *waiting)
{
    if (!waiting->leads)
        waiting->leads = !atomic_flag_test_and_set(&led);
    if (waiting->leads)
        leader_busy_since = 0;
    return waiting->leads;
}

void waiting_resign(struct waiting *waiting)
{
    if (!waiting->leads)
        return;
    waiting->leads = false;
    leader_busy_since = 0;
    atomic_flag_clear(&led);
    resigned++;
    syscall(SYS_futex, &resigned, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/* Stay out of the leader's way until it resigns, or has been at one request for long. */
static void stand_by(void)
{
    const struct timespec patience = {.tv_nsec = LONG_NANOSECONDS};
    uint32_t before = resigned;
    int64_t since = leader_busy_since;
    if (since != 0 && now() - since > LONG_NANOSECONDS)
        wait_readable(-1);
    else
        syscall(SYS_futex, &resigned, FUTEX_WAIT_PRIVATE, before, &patience, NULL, 0);
}

/* Since START nothing was there. */
static void sleep_now(struct waiting *waiting, int64_t start)
{
    waiting_resign(waiting);
    if (waiting->hope > 0)
        waiting->hope--;
    wait_readable(-1);
    if (waiting->hope == 0 && now() - start < LOOK_NANOSECONDS)
        waiting->hope = LOOKS_IN_VAIN;
}

/* Whether to answer it takes so long that others should not have to wait for that. */
static bool takes_long(const char *bytes, size_t size)
{
    const struct fuse_in_header *header = (const struct fuse_in_header *)bytes;
    const struct fuse_read_in *in = (const struct fuse_read_in *)(header + 1);
    if (size < sizeof(*header) + sizeof(*in))
        return false;
    /* What they have in common is where the number of bytes is. */
    return (header->opcode == FUSE_READ || header->opcode == FUSE_WRITE) && in->size >= LONG_BYTES;
}

/* Nothing is there: do what can be done before, look again for a while, then sleep. */
static ssize_t look(struct waiting *waiting, char *bytes)
{
    ahead_read();
    int64_t start = now();
    while (waiting->hope > 0 && now() - start < LOOK_NANOSECONDS) {
        ssize_t size = read(device_fd, bytes, bytes_most);
        if (size >= 0 || errno != EAGAIN) {
            waiting->hope = LOOKS_IN_VAIN;
            return size;
        }
    }
    sleep_now(waiting, start);
    return read(device_fd, bytes, bytes_most);
}

ssize_t waiting_receive(struct waiting *waiting, char *bytes)
{
    ssize_t size = read(device_fd, bytes, bytes_most);
    while (size < 0 && errno == EAGAIN) {
        waiting->queued = 0;
        if (lead(waiting)) {
            size = look(waiting, bytes);
        } else {
            stand_by();
            size = read(device_fd, bytes, bytes_most);
        }
    }
    if (waiting->leads
        && (waiting->queued++ >= QUEUED_MOST || (size > 0 && takes_long(bytes, (size_t)size))))
        waiting_resign(waiting);
    if (waiting->leads)
        leader_busy_since = now();
    return size;
}
