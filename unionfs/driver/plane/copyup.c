#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "changes.h"
#include "copyup.h"
#include "plane.h"

/* Bytes that are copied while others wait; tests/plane has less. */
#ifndef AT_ONCE_MOST
#define AT_ONCE_MOST (1 << 20)
#endif

enum {
    STRETCH = 4 << 20, /* bytes that the disk begins with before all are copied */
    LONG_MOST = 16,    /* long copies at the same time */
};

pthread_mutex_t copyup_names_lock = PTHREAD_MUTEX_INITIALIZER;

static int scratch = -1;
static const char *prefix;
static enum ordering ordering;

void copyup_configure(int directory, const char *names, enum ordering how)
{
    scratch = directory;
    prefix = names;
    ordering = how;
}

bool copyup_possible(void)
{
    return scratch >= 0;
}

/* A name in the scratch directory, which Python's names there, "#" and a number, differ from. */
struct scratch_name {
    char text[24];
};

static struct scratch_name new_name(void)
{
    static atomic_uint count;
    struct scratch_name name;
    snprintf(name.text, sizeof(name.text), "#p%x", atomic_fetch_add(&count, 1));
    return name;
}

/* What is copied. */
struct copying {
    uint64_t number;
    int layer;
    int source; /* the lower file, or the content of one that was told */
    const struct fuse_attr *told; /* what it is like, if that was told */
    struct stat status; /* what the copy is to be like */
    off_t size; /* bytes of it that are wanted */
};

/* Content */

/* Whether the file can be copied as it is: without flags, or marks. */
static bool is_simple(int fd, const struct stat *status)
{
    int flags = 0;
    if (!S_ISREG(status->st_mode) || status->st_nlink != 1 || flistxattr(fd, NULL, 0) != 0)
        return false;
    return ioctl(fd, FS_IOC_GETFLAGS, &flags) != 0
           || !(flags & (FS_SYNC_FL | FS_IMMUTABLE_FL | FS_APPEND_FL | FS_NOATIME_FL));
}

/* As copy_file_range(2), where that is not possible between the two. */
static ssize_t copy_by_hand(int from, int to, off_t at, size_t size)
{
    char buffer[1 << 16];
    ssize_t got = pread(from, buffer, size < sizeof(buffer) ? size : sizeof(buffer), at);
    return got <= 0 ? got : pwrite(to, buffer, (size_t)got, at);
}

/* Between which layers and the upper the kernel can't copy: so much is not tried again. */
enum { LAYERS_REMEMBERED = 512 };
static atomic_bool no_clones[LAYERS_REMEMBERED], no_ranges[LAYERS_REMEMBERED];

/* Whether an error is of the two file systems, and not of this file or moment. */
static bool is_never_possible(int error)
{
    return error == EOPNOTSUPP || error == EXDEV || error == ENOSYS || error == ENOTTY;
}

static bool is_able(const atomic_bool *unable, int layer)
{
    return layer >= LAYERS_REMEMBERED || !unable[layer];
}

static void note_unable(atomic_bool *unable, int layer)
{
    if (layer < LAYERS_REMEMBERED)
        unable[layer] = true;
}

static bool share_blocks(const struct copying *copying, int to)
{
    if (!is_able(no_clones, copying->layer))
        return false;
    if (ioctl(to, FICLONE, copying->source) == 0)
        return true;
    if (is_never_possible(errno))
        note_unable(no_clones, copying->layer);
    return false;
}

/* Let the disk begin with what is waited for when all else is done: see unionfs/ordering.py. */
static bool begin_to_settle(int fd, off_t start, off_t size)
{
    return ordering == UNORDERED || sync_file_range(fd, start, size, SYNC_FILE_RANGE_WRITE) == 0;
}

static bool copy_stretch(const struct copying *copying, int to, off_t at, off_t end)
{
    bool by_kernel = is_able(no_ranges, copying->layer);
    while (at < end) {
        off_t in = at, out = at;
        ssize_t done =
            by_kernel ? copy_file_range(copying->source, &in, to, &out, (size_t)(end - at), 0)
                      : copy_by_hand(copying->source, to, at, (size_t)(end - at));
        if (done > 0) {
            at += done;
        } else if (done < 0 && by_kernel) {
            by_kernel = false;
            if (is_never_possible(errno))
                note_unable(no_ranges, copying->layer);
        } else {
            return false;
        }
    }
    return true;
}

static bool copy_content(const struct copying *copying, int to)
{
    struct stat status;
    off_t size = copying->size;
    if (size > 0 && share_blocks(copying, to))
        return fstat(to, &status) == 0 && status.st_size >= size
               && (status.st_size == size || ftruncate(to, size) == 0);
    for (off_t at = 0; at < size; at += STRETCH) {
        off_t end = size - at > STRETCH ? at + STRETCH : size;
        if (!copy_stretch(copying, to, at, end) || !begin_to_settle(to, at, end - at))
            return false;
    }
    return true;
}

/* Marks */

static bool set_mark(int fd, const char *name, const void *value, size_t size)
{
    char mark[64];
    snprintf(mark, sizeof(mark), "%s%s", prefix, name);
    return fsetxattr(fd, mark, value, size, 0) == 0;
}

/* struct ovl_fb of fs/overlayfs/overlayfs.h, and a handle. */
struct origin {
    uint8_t version, magic, size, flags, type;
    uint8_t uuid[LAYERS_UUID];
    uint8_t handle[MAX_HANDLE_SZ];
} __attribute__((packed));

static bool set_origin(int target, int layer, int source)
{
    union {
        struct file_handle handle;
        char room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
    } found = {.handle.handle_bytes = MAX_HANDLE_SZ};
    int mount;
    if (name_to_handle_at(source, "", &found.handle, &mount, AT_EMPTY_PATH) != 0)
        return errno == EOPNOTSUPP || errno == EOVERFLOW;
    struct origin origin = {.magic = 0xfb, .type = (uint8_t)found.handle.handle_type};
    origin.flags = __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__;
    layers_uuid(layer, origin.uuid);
    memcpy(origin.handle, found.handle.f_handle, found.handle.handle_bytes);
    size_t size = offsetof(struct origin, handle) + found.handle.handle_bytes;
    origin.size = (uint8_t)size;
    return set_mark(target, "origin", &origin, size);
}

static bool set_number(int target, uint64_t number)
{
    char text[24];
    int length = snprintf(text, sizeof(text), "%llu", (unsigned long long)number);
    return set_mark(target, "unionmount.number", text, (size_t)length);
}

bool copyup_announce(struct directory *directory, int above)
{
    char path[sizeof("/proc/self/fd/") + 3 * sizeof(int)], mark[64];
    if (directory->impure)
        return true;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", above);
    snprintf(mark, sizeof(mark), "%simpure", prefix);
    directory->impure = setxattr(path, mark, "y", 1, 0) == 0;
    return directory->impure;
}

/* Copies */

static bool settle(int fd)
{
    switch (ordering) {
    case UNORDERED:
        return true;
    case WRITTEN:
        return sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE
                                             | SYNC_FILE_RANGE_WAIT_AFTER) == 0;
    default:
        return fsync(fd) == 0;
    }
}

/*
 * Find out what the copy is to be like, of a file that is known to have WHOLE bytes, of which the
 * first WANTED (-1: all) are needed. Answers whether it can be made here.
 */
static bool describe(struct copying *copying, off_t whole, off_t wanted)
{
    struct stat *status = &copying->status;
    if (fstat(copying->source, status) != 0 || status->st_size != whole)
        return false; /* the layer has changed */
    bool cut = wanted >= 0 && wanted < whole;
    copying->size = cut ? wanted : whole;
    /* Holes are Python's. */
    if (copying->size > 0 && status->st_blocks * 512 < whole)
        return false;
    if (copying->told == NULL && !is_simple(copying->source, status))
        return false;
    if (copying->told != NULL)
        layers_told_status(copying->told, status);
    if (cut)
        status->st_mtim = (struct timespec){.tv_nsec = UTIME_NOW};
    return true;
}

/*
 * Make TARGET, which is empty and nobody's yet, the copy. In this order: a change of owner takes
 * set-user-ID away; and what is written changes the time.
 */
static bool build(const struct copying *copying, int target)
{
    const struct stat *status = &copying->status;
    struct timespec times[2] = {status->st_atim, status->st_mtim};
    return copy_content(copying, target) && fchown(target, status->st_uid, status->st_gid) == 0
           && set_number(target, copying->number)
           && (copying->told != NULL || set_origin(target, copying->layer, copying->source))
           && fchmod(target, status->st_mode & 07777) == 0 && futimens(target, times) == 0
           && (copying->size == 0 || settle(target));
}

/* Give the copy its name; the directory's times stay, for nothing changed in the union. */
static bool publish(const struct scratch_name *name, const struct claim *claim)
{
    struct stat before;
    pthread_mutex_lock(&copyup_names_lock);
    bool done = fstatat(claim->above, "", &before, AT_EMPTY_PATH) == 0
                && copyup_announce(claim->directory, claim->above)
                && renameat2(scratch, name->text, claim->above, claim->child->name,
                             RENAME_NOREPLACE) == 0;
    if (done) {
        struct timespec times[2] = {before.st_atim, before.st_mtim};
        /* What was to be done is done; its times are not worth failing for. */
        (void)!utimensat(claim->above, ".", times, 0);
    }
    pthread_mutex_unlock(&copyup_names_lock);
    return done;
}

/* The copy TARGET of CLAIM's name counts from now on. Answers whether it is as it should be. */
static bool take_up(const struct claim *claim, int target)
{
    struct child *child = claim->child;
    struct fuse_attr attributes;
    uint64_t inode;
    bool good = layers_stat(layers_upper(), claim->above, child->name, DT_REG, &inode,
                            &attributes) == 0;
    pthread_mutex_lock(&table_lock);
    struct node *node = child->node;
    child->source = IN_UPPER;
    child->below = child->closed = child->copied = 1;
    if (node == NULL || !good) {
        child->kind = ASK; /* Python finds it there */
    } else {
        node->upper = true;
        node->inode = inode;
        node->attributes = attributes;
        handles_rebind(node->number, target);
    }
    changes_note(claim->directory, child->name, child->length, true);
    pthread_mutex_unlock(&table_lock);
    return good;
}

/*
 * Claim the name of plain lower file NUMBER, whose directory is in the upper, once nobody else does.
 * Answers the bytes that it is known to have, -1 if it is no such file: then nobody has to release it.
 */
static off_t claim_file(uint64_t number, struct claim *claim)
{
    off_t whole = -1;
    pthread_mutex_lock(&table_lock);
    struct node *node = nodes_settled(number);
    struct child *child = node == NULL || node->pinned || node->upper ? NULL : node->child;
    if (child != NULL && child->kind == PLAIN && child->type == DT_REG
        && nodes_claim(child, claim))
        whole = (off_t)node->attributes.size;
    pthread_mutex_unlock(&table_lock);
    return whole;
}

static void release(struct claim *claim)
{
    pthread_mutex_lock(&table_lock);
    nodes_settle(claim);
    pthread_mutex_unlock(&table_lock);
}

/* A file in the scratch directory, called NAME; -1 if there is none. */
static int new_file(struct scratch_name *name)
{
    *name = new_name();
    return openat(scratch, name->text, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
}

static int discard(int target, const struct scratch_name *name)
{
    unlinkat(scratch, name->text, 0);
    close(target);
    return -1;
}

/* Let CLAIM's name lead to TARGET, a copy that is called NAME. Answers it, or -1. */
static int put(const struct claim *claim, int target, const struct scratch_name *name)
{
    if (!publish(name, claim))
        return discard(target, name);
    if (take_up(claim, target))
        return target;
    close(target);
    return -1;
}

/* Answers a descriptor of the copy, -1 if there is none. */
static int copy_at_once(const struct copying *copying, const struct claim *claim)
{
    struct scratch_name name;
    int target = new_file(&name);
    if (target < 0)
        return -1;
    return build(copying, target) ? put(claim, target, &name) : discard(target, &name);
}

/* Copies that take long */

/* Of this thread: whether it has time for them, and whether one was left for want of it. */
static _Thread_local bool has_time, was_long;

/* The files that are being copied; 0 where there is none. */
static uint64_t long_copies[LONG_MOST];
static pthread_mutex_t long_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t long_ended = PTHREAD_COND_INITIALIZER;

void copyup_take_time(void)
{
    has_time = true;
}

bool copyup_was_long(void)
{
    bool was = was_long;
    was_long = false;
    return was;
}

static uint64_t *find_long(uint64_t number)
{
    for (size_t at = 0; at < LONG_MOST; at++)
        if (long_copies[at] == number)
            return &long_copies[at];
    return NULL;
}

/* Wait until nobody else copies NUMBER; NULL if there are too many others. */
static uint64_t *begin_long(uint64_t number)
{
    pthread_mutex_lock(&long_lock);
    while (find_long(number) != NULL)
        pthread_cond_wait(&long_ended, &long_lock);
    uint64_t *unused = find_long(0);
    if (unused != NULL)
        *unused = number;
    pthread_mutex_unlock(&long_lock);
    return unused;
}

static void end_long(uint64_t *copied)
{
    pthread_mutex_lock(&long_lock);
    *copied = 0;
    pthread_cond_broadcast(&long_ended);
    pthread_mutex_unlock(&long_lock);
}

static int build_long(const struct copying *copying)
{
    struct scratch_name name;
    struct claim claim;
    int target = new_file(&name);
    if (target < 0)
        return -1;
    if (!build(copying, target) || claim_file(copying->number, &claim) < 0)
        return discard(target, &name);
    target = put(&claim, target, &name);
    release(&claim);
    return target;
}

/* As copy_at_once, but the name is claimed when the copy is built: until then anybody may use it. */
static int copy_long(const struct copying *copying)
{
    struct claim claim;
    int target = -1;
    uint64_t *copied = begin_long(copying->number);
    if (copied == NULL)
        return -1;
    /* It may have become another while others copied it. */
    if (claim_file(copying->number, &claim) >= 0) {
        release(&claim);
        target = build_long(copying);
    }
    end_long(copied);
    return target;
}

int copyup_file(uint64_t number, off_t size)
{
    struct claim claim;
    struct place place;
    if (!copyup_possible() || !nodes_find_place(number, S_IFREG, &place))
        return -1;
    int target = -1;
    off_t whole = !place.told || place.bare ? claim_file(number, &claim) : -1;
    if (whole >= 0) {
        struct copying copying = {.number = number,
                                  .layer = place.source.layer,
                                  .source = nodes_open_place(&place, number),
                                  .told = place.told ? &place.attributes : NULL};
        bool possible = copying.source >= 0 && describe(&copying, whole, size);
        bool is_long = possible && copying.size > AT_ONCE_MOST;
        if (possible && !is_long)
            target = copy_at_once(&copying, &claim);
        release(&claim);
        if (is_long && has_time)
            target = copy_long(&copying);
        else if (is_long)
            was_long = true;
        if (copying.source >= 0)
            close(copying.source);
    }
    nodes_leave_place(&place);
    /* Somebody else may have brought it there meanwhile. */
    return target >= 0 ? target : nodes_open_upper(number, O_RDWR);
}

/* Whiteouts */

/* All are one inode, so that each costs a link. */
static bool link_whiteout(int directory, const char *name)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static const char whiteout[] = "#w";
    bool done = false;
    pthread_mutex_lock(&lock);
    for (int attempt = 0; !done && attempt < 2; attempt++) {
        done = linkat(scratch, whiteout, directory, name, 0) == 0;
        if (done || (errno != ENOENT && errno != EMLINK))
            break;
        if (errno == EMLINK)
            unlinkat(scratch, whiteout, 0);
        if (mknodat(scratch, whiteout, S_IFCHR, makedev(0, 0)) != 0)
            break;
    }
    pthread_mutex_unlock(&lock);
    return done;
}

bool copyup_hide(int above, const char *name, bool present)
{
    if (!present)
        return link_whiteout(above, name);
    struct scratch_name made = new_name();
    if (!link_whiteout(scratch, made.text))
        return false;
    bool done = renameat(scratch, made.text, above, name) == 0;
    if (!done)
        unlinkat(scratch, made.text, 0);
    return done;
}
