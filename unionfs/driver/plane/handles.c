#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "plane.h"

/*
 * A file may be open in one of two ways at a time: through the kernel's page cache, or passed
 * through to one backing file, which can't be changed while it is open anywhere (fs/fuse/iomode.c).
 * So how a file is opened depends on how it is open already, and only the first opening decides; and
 * a lower file that may be copied up is never passed through.
 *
 * The kernel closes before it sends RELEASE. What counts here as open may be closed already, never
 * the other way round, so that what is answered is always allowed.
 */
enum mode { CLOSED, CACHED, PASSED };

/* An inode that is open, by the number of its node. */
struct inode {
    struct inode *next;
    uint64_t node;
    int32_t backing;  /* the id of the file that is passed through */
    unsigned cached;  /* how many handles are open in each way */
    unsigned passed;
    unsigned mappers; /* how many can be written by a map, and are not passed through */
};

/* What is known of a handle; handles are descriptors, and index a table. */
struct handle {
    uint64_t node;
    enum mode mode;
    bool upper;
    bool own;      /* Python does not know it */
    bool writable;
    bool mappable; /* to be written */
};

enum { INODE_BUCKETS = 1024 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct handle *handles;
static size_t handle_count;
static struct inode *inodes[INODE_BUCKETS];
static atomic_int highest = -1;

/* Whether lower files, and those of the upper, are passed through; whether one ever was. */
static bool passing[2], passed_any[2];
static int64_t pass_lower_from;

void handles_configure(bool upper, bool lower, int64_t lower_from)
{
    passing[true] = upper;
    passing[false] = lower;
    pass_lower_from = lower_from;
}

static struct inode **inode_slot(uint64_t node)
{
    struct inode **slot = &inodes[node % INODE_BUCKETS];
    while (*slot != NULL && (*slot)->node != node)
        slot = &(*slot)->next;
    return slot;
}

static int set_handle(int fd, struct handle handle)
{
    if (fd < 0) {
        errno = EBADF;
        return -1;
    }
    pthread_mutex_lock(&lock);
    int result = 0;
    size_t wanted = (size_t)fd + 1;
    if (wanted > handle_count) {
        if (wanted < handle_count * 2)
            wanted = handle_count * 2;
        struct handle *larger = realloc(handles, wanted * sizeof(*handles));
        if (larger == NULL) {
            result = -1;
        } else {
            memset(larger + handle_count, 0, (wanted - handle_count) * sizeof(*handles));
            handles = larger;
            handle_count = wanted;
        }
    }
    if (result == 0)
        handles[fd] = handle;
    if (fd > highest)
        highest = fd;
    pthread_mutex_unlock(&lock);
    return result;
}

int handles_offer(int fd, bool upper)
{
    return set_handle(fd, (struct handle){.upper = upper});
}

int handles_open(int fd, uint64_t node, bool upper)
{
    return set_handle(fd, (struct handle){.node = node, .upper = upper, .own = true});
}

int handles_highest(void)
{
    return highest;
}

bool handles_own(uint64_t fd)
{
    pthread_mutex_lock(&lock);
    bool own = fd < handle_count && handles[fd].own && handles[fd].mode != CLOSED;
    pthread_mutex_unlock(&lock);
    return own;
}

void handles_give(uint64_t node, handles_taker *take, void *data)
{
    pthread_mutex_lock(&lock);
    for (size_t fd = 0; *inode_slot(node) != NULL && fd < handle_count; fd++) {
        struct handle *handle = &handles[fd];
        if (handle->own && handle->mode != CLOSED && handle->node == node) {
            handle->own = false;
            take((int)fd, handle->writable, data);
        }
    }
    pthread_mutex_unlock(&lock);
}

void handles_rebind(uint64_t node, int descriptor)
{
    char path[sizeof("/proc/self/fd/") + 3 * sizeof(int)];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", descriptor);
    pthread_mutex_lock(&lock);
    for (size_t fd = 0; *inode_slot(node) != NULL && fd < handle_count; fd++) {
        struct handle *handle = &handles[fd];
        if (!handle->own || handle->mode == CLOSED || handle->node != node)
            continue;
        int reading = open(path, O_RDONLY | O_CLOEXEC);
        /* Without a descriptor more, what may write does as well: the kernel knows who may. */
        while (dup3(reading >= 0 ? reading : descriptor, (int)fd, O_CLOEXEC) < 0 && errno == EBUSY)
            ;
        if (reading >= 0)
            close(reading);
        handle->upper = true;
    }
    pthread_mutex_unlock(&lock);
}

bool handles_write_through(uint64_t fd)
{
    pthread_mutex_lock(&lock);
    struct inode *inode = fd < handle_count ? *inode_slot(handles[fd].node) : NULL;
    bool through = inode == NULL || inode->mappers == 0;
    pthread_mutex_unlock(&lock);
    return through;
}

static int32_t open_backing(int fd, bool upper)
{
    struct fuse_backing_map map = {.fd = fd};
    int32_t id = ioctl(channel_device(), FUSE_DEV_IOC_BACKING_OPEN, &map);
    if (id >= 0)
        passed_any[upper] = true;
    else if (!passed_any[upper])
        /* Our privileges, the kernel or the filesystem below don't allow it, for no file. */
        passing[upper] = false;
    return id;
}

static void close_backing(int32_t id)
{
    uint32_t argument = (uint32_t)id;
    ioctl(channel_device(), FUSE_DEV_IOC_BACKING_CLOSE, &argument);
}

/* How a handle is to be opened; what it shares with others open at the time is INODE. */
static enum mode choose(struct inode *inode, const struct handle *handle, int fd)
{
    struct stat file;
    if (inode->cached > 0)
        return CACHED;
    if (inode->passed > 0)
        return PASSED;
    if (!passing[handle->upper])
        return CACHED;
    if (!handle->upper && (fstat(fd, &file) != 0 || file.st_size < pass_lower_from))
        return CACHED;
    inode->backing = open_backing(fd, handle->upper);
    return inode->backing < 0 ? CACHED : PASSED;
}

void handles_opened(uint64_t node, uint32_t flags, struct open_reply *reply)
{
    int fd = (int)reply->fh;
    pthread_mutex_lock(&lock);
    if (reply->fh >= handle_count)
        goto unlock;
    struct handle *handle = &handles[fd];
    struct inode **slot = inode_slot(node);
    struct inode *inode = *slot;
    handle->node = node;
    handle->writable = (flags & O_ACCMODE) != O_RDONLY;
    handle->mode = CACHED;
    if (inode == NULL) {
        inode = calloc(1, sizeof(*inode));
        if (inode == NULL)
            goto unlock;
        inode->node = node;
        *slot = inode;
    }
    bool first = inode->cached == 0 && inode->passed == 0;
    handle->mode = choose(inode, handle, fd);
    handle->mappable = (flags & O_ACCMODE) == O_RDWR && handle->mode != PASSED;
    if (handle->mappable)
        inode->mappers++;
    if (handle->mode == PASSED) {
        inode->passed++;
        /* Of the other flags the kernel allows none beside it. */
        reply->open_flags = FOPEN_PASSTHROUGH;
        reply->backing_id = inode->backing;
    } else {
        inode->cached++;
        /* While it was passed through, what was written did not go through the cache. */
        if (first && handle->upper && passed_any[true])
            reply->open_flags &= ~(uint32_t)FOPEN_KEEP_CACHE;
    }
unlock:
    pthread_mutex_unlock(&lock);
}

bool handles_closed(uint64_t fd)
{
    bool own = false;
    pthread_mutex_lock(&lock);
    if (fd >= handle_count || handles[fd].mode == CLOSED)
        goto unlock;
    struct handle *handle = &handles[fd];
    struct inode **slot = inode_slot(handle->node);
    struct inode *inode = *slot;
    if (inode != NULL) {
        if (handle->mode == CACHED)
            inode->cached--;
        if (handle->mappable)
            inode->mappers--;
        if (handle->mode == PASSED && --inode->passed == 0)
            close_backing(inode->backing);
        if (inode->cached == 0 && inode->passed == 0) {
            *slot = inode->next;
            free(inode);
        }
    }
    own = handle->own;
    *handle = (struct handle){.mode = CLOSED};
unlock:
    pthread_mutex_unlock(&lock);
    return own;
}
