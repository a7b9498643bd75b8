#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/securebits.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "changes.h"
#include "copyup.h"
#include "names.h"

static bool syncing = true;

void changes_configure(bool sync)
{
    syncing = sync;
}

/* Who asks */

void changes_begin(void)
{
    /* A mask of its own: the process's other threads keep theirs. */
    unshare(CLONE_FS);
    umask(0);
}

/* Without it setfsuid(2) would take capabilities away for as long as it lasts (capabilities(7)). */
static void keep_capabilities(void)
{
    static __thread bool kept;
    int bits = kept ? -1 : prctl(PR_GET_SECUREBITS, 0, 0, 0, 0);
    if (bits >= 0)
        prctl(PR_SET_SECUREBITS, bits | SECBIT_NO_SETUID_FIXUP, 0, 0, 0);
    kept = true;
}

/* Whether the calling thread has another identity than its own. */
static __thread bool borrowed;

/*
 * Let what the thread makes belong to whoever asks, from the first instant on: so that set-group-ID
 * directories, default ACLs and quotas do their work. Answers whether that is allowed.
 */
static bool become(const struct fuse_in_header *header, uint32_t mask)
{
    umask(mask & 0777);
    if (header->uid == geteuid() && header->gid == getegid())
        return true;
    borrowed = true;
    keep_capabilities();
    setfsgid(header->gid);
    setfsuid(header->uid);
    /* An impossible id leaves the value, and answers it. */
    return (uint32_t)setfsuid((uid_t)-1) == header->uid
           && (uint32_t)setfsgid((gid_t)-1) == header->gid;
}

static void become_oneself(void)
{
    umask(0);
    if (borrowed) {
        setfsuid(geteuid());
        setfsgid(getegid());
        borrowed = false;
    }
}

/* Changes that Python has to know */

static struct change *changes_head, **changes_tail = &changes_head;

void changes_note(const struct directory *directory, const char *name, size_t length, bool present)
{
    if (directory->node == NULL || !directory->node->pinned)
        return;
    struct change *change;
    /* Python must not go on believing what is not so: better late than never. */
    while ((change = malloc(sizeof(*change) + length)) == NULL)
        sched_yield();
    *change =
        (struct change){.parent = directory->node->number, .present = present, .length = length};
    memcpy(change->name, name, length);
    *changes_tail = change;
    changes_tail = &change->next;
}

struct change *names_changes(void)
{
    pthread_mutex_lock(&table_lock);
    struct change *head = changes_head;
    changes_head = NULL;
    changes_tail = &changes_head;
    pthread_mutex_unlock(&table_lock);
    return head;
}

/* Names in a request */

/* A name of the request, from AT on; NULL if it does not end, or is one that Python has to judge. */
static const char *name_at(const struct request *request, size_t at, size_t *length)
{
    if (at >= request->size)
        return NULL;
    const char *name = (const char *)request->body + at;
    *length = strnlen(name, request->size - at);
    if (*length == request->size - at || *length > NAME_MAX || *length == 0)
        return NULL;
    return strncmp(name, ".wh.", 4) == 0 ? NULL : name;
}

/* Making */

/* What is to be made. */
struct making {
    const struct request *request;
    const char *name;
    size_t length;
    const char *target; /* of a symbolic link */
    uint32_t mode, mask, device;
    int flags;
};

static dev_t device_of(uint32_t wire)
{
    return makedev((wire & 0xfff00) >> 8, (wire & 0xff) | (wire >> 12 & 0xfff00));
}

/* Answers a descriptor for CREATE, else 0; -1 with errno. */
static int make_in(int directory_fd, const struct making *making)
{
    switch (making->request->header->opcode) {
    case FUSE_MKDIR:
        return mkdirat(directory_fd, making->name, making->mode & 07777);
    case FUSE_SYMLINK:
        return symlinkat(making->target, directory_fd, making->name);
    case FUSE_MKNOD:
        return mknodat(directory_fd, making->name, making->mode, device_of(making->device));
    default:
        return openat(directory_fd, making->name,
                      making->flags | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                      making->mode & 07777);
    }
}

static uint8_t type_of(const struct making *making)
{
    switch (making->request->header->opcode) {
    case FUSE_MKDIR:
        return DT_DIR;
    case FUSE_SYMLINK:
        return DT_LNK;
    case FUSE_MKNOD:
        return IFTODT(making->mode);
    default:
        return DT_REG;
    }
}

/* Give the kernel what was made; FD is a CREATE's. */
static void reply_made(const struct making *making, const struct node *node,
                       const struct fuse_attr *attributes, int fd)
{
    struct {
        struct fuse_entry_out entry;
        struct open_reply open;
    } reply = {names_entry(node, attributes), {.fh = (uint64_t)fd, .open_flags = FOPEN_KEEP_CACHE}};
    uint64_t unique = making->request->header->unique;
    if (making->request->header->opcode != FUSE_CREATE) {
        pthread_mutex_unlock(&table_lock);
        reply_data(unique, &reply.entry, sizeof(reply.entry));
        return;
    }
    handles_opened(node->number, (uint32_t)making->flags, &reply.open);
    pthread_mutex_unlock(&table_lock);
    if (!reply_data(unique, &reply, sizeof(reply)) && handles_closed((uint64_t)fd))
        close(fd);
}

/*
 * Take up what was made in DIRECTORY as FD (CREATE's; 0 for others), and reply. Under the lock, which
 * it gives up for good if it answers true.
 */
static bool take_up(struct directory *directory, const struct making *making, int fd)
{
    struct fuse_attr attributes;
    struct child *child = table_add_child(directory, making->name, making->length);
    if (child == NULL)
        return false;
    child->type = type_of(making);
    struct node *node = nodes_made(child, &attributes);
    if (node == NULL
        || (making->request->header->opcode == FUSE_CREATE
            && handles_open(fd, node->number, true) != 0)) {
        table_remove_child(child);
        return false;
    }
    node->references++;
    changes_note(directory, making->name, making->length, true);
    table_rest(directory);
    reply_made(making, node, &attributes, fd);
    return true;
}

/* Make it, if nothing but the upper is concerned. Python takes whatever else there is to do. */
static enum verdict make(const struct making *making)
{
    const struct fuse_in_header *header = making->request->header;
    if (making->name == NULL || !tree_knows(header->nodeid))
        return FORWARD;
    pthread_mutex_lock(&table_lock);
    struct directory *directory = tree_directory(header->nodeid);
    int above = directory == NULL ? -1 : tree_upper(directory);
    if (above < 0 || table_child(directory, making->name, making->length) != NULL) {
        pthread_mutex_unlock(&table_lock);
        return FORWARD;
    }
    directory->busy++;
    pthread_mutex_unlock(&table_lock);
    /* Where a whiteout is, it fails. */
    pthread_mutex_lock(&copyup_names_lock);
    int fd = become(header, making->mask) ? make_in(above, making) : -1;
    become_oneself();
    pthread_mutex_unlock(&copyup_names_lock);
    pthread_mutex_lock(&table_lock);
    if (fd >= 0 && take_up(directory, making, fd))
        return ANSWERED;
    table_rest(directory);
    pthread_mutex_unlock(&table_lock);
    if (fd >= 0) {
        unlinkat(above, making->name, type_of(making) == DT_DIR ? AT_REMOVEDIR : 0);
        if (header->opcode == FUSE_CREATE)
            close(fd);
    }
    return FORWARD;
}

static enum verdict create(const struct request *request)
{
    const struct fuse_create_in *in = BODY(request, struct fuse_create_in);
    struct making making = {.request = request};
    if (in == NULL)
        return answer(request, EINVAL);
    making.name = name_at(request, sizeof(*in), &making.length);
    making.mode = in->mode;
    making.mask = in->umask;
    making.flags = (int)in->flags & ~NOT_PASSED_ON;
    return make(&making);
}

static enum verdict make_directory(const struct request *request)
{
    const struct fuse_mkdir_in *in = BODY(request, struct fuse_mkdir_in);
    struct making making = {.request = request};
    if (in == NULL)
        return answer(request, EINVAL);
    making.name = name_at(request, sizeof(*in), &making.length);
    making.mode = in->mode;
    making.mask = in->umask;
    return make(&making);
}

static enum verdict make_node(const struct request *request)
{
    const struct fuse_mknod_in *in = BODY(request, struct fuse_mknod_in);
    struct making making = {.request = request};
    if (in == NULL)
        return answer(request, EINVAL);
    if (S_ISCHR(in->mode) && in->rdev == 0)
        return FORWARD; /* a whiteout: Python refuses it */
    making.name = name_at(request, sizeof(*in), &making.length);
    making.mode = in->mode;
    making.mask = in->umask;
    making.device = in->rdev;
    return make(&making);
}

static enum verdict make_link(const struct request *request)
{
    struct making making = {.request = request};
    making.name = name_at(request, 0, &making.length);
    if (making.name == NULL)
        return FORWARD;
    size_t at = making.length + 1;
    making.target = (const char *)request->body + at;
    if (at >= request->size || strnlen(making.target, request->size - at) == request->size - at)
        return answer(request, EINVAL);
    return make(&making);
}

/* Taking away */

/* Whether a lower layer has CHILD, so that a whiteout has to take its place. */
static bool is_covering(const struct child *child)
{
    return child->source != IN_UPPER || child->below || child->more > 0;
}

/* Whether the name of CHILD may go: it is plain, and a directory nobody's but the upper's. */
static bool may_go(const struct child *child)
{
    if (child == NULL || child->kind != PLAIN || child->claimed)
        return false;
    return !is_covering(child) || (copyup_possible() && child->type != DT_DIR);
}

static bool is_empty(const struct child *child)
{
    const struct directory *directory = child->node == NULL ? NULL : child->node->directory;
    return directory == NULL || directory->count == directory->gone;
}

static int open_claimed(const struct claim *claim)
{
    const struct child *child = claim->child;
    if (child->source == IN_UPPER)
        return openat(claim->above, child->name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    return layers_name(&claim->directory->sources[child->source], child->name);
}

/*
 * The name of CLAIM is about to go: keep the inode at hand, as it may be open. Answers whether it
 * is. Called without the lock.
 */
static bool keep(const struct claim *claim)
{
    int fd = open_claimed(claim);
    if (fd < 0)
        return false;
    pthread_mutex_lock(&table_lock);
    struct node *node = claim->child->node;
    if (node != NULL && node->fd < 0) {
        node->fd = fd;
        node->layer = tree_layer(claim->directory, claim->child->source);
        fd = -1;
    }
    pthread_mutex_unlock(&table_lock);
    if (fd >= 0)
        close(fd); /* the kernel does not know it */
    return true;
}

/* The name of CLAIM has stayed. Under the lock. */
static void unkeep(const struct claim *claim)
{
    struct node *node = claim->child->node;
    if (node != NULL && node->fd >= 0) {
        close(node->fd);
        node->fd = -1;
    }
}

/* Called without the lock. */
static bool remove_name(const struct claim *claim)
{
    const struct child *child = claim->child;
    int flags = child->type == DT_DIR ? AT_REMOVEDIR : 0;
    pthread_mutex_lock(&copyup_names_lock);
    bool gone = is_covering(child)
                    ? copyup_hide(claim->above, child->name, child->source == IN_UPPER)
                    : unlinkat(claim->above, child->name, flags) == 0;
    pthread_mutex_unlock(&copyup_names_lock);
    return gone;
}

static enum verdict take_away(const struct request *request, bool is_directory)
{
    size_t length;
    struct claim claimed;
    const char *name = name_at(request, 0, &length);
    if (name == NULL || !tree_knows(request->header->nodeid))
        return FORWARD;
    pthread_mutex_lock(&table_lock);
    struct directory *directory = tree_directory(request->header->nodeid);
    struct child *child = directory == NULL ? NULL : table_child(directory, name, length);
    bool mine = may_go(child) && (child->type == DT_DIR) == is_directory
                && is_empty(child) && nodes_claim(child, &claimed);
    pthread_mutex_unlock(&table_lock);
    if (!mine)
        return FORWARD;
    bool gone = keep(&claimed) && remove_name(&claimed);
    pthread_mutex_lock(&table_lock);
    if (gone) {
        /* Of the upper's they are asked for there. */
        if (child->node != NULL)
            child->node->attributes.nlink = 0;
        changes_note(directory, name, length, false);
        table_remove_child(child);
    } else {
        unkeep(&claimed);
    }
    nodes_settle(&claimed);
    pthread_mutex_unlock(&table_lock);
    return gone ? answer(request, 0) : FORWARD;
}

/* Renaming */

/* What a rename is about, once it is the plane's. */
struct move {
    struct claim source, replaced;
    struct directory *target;
    int target_fd;
    const char *name;
    size_t length;
};

/* Whether SOURCE may become NAME in TARGET without Python; then what is concerned is claimed. */
static bool claim_move(struct move *move, struct child *source, uint32_t flags)
{
    struct child *replaced = table_child(move->target, move->name, move->length);
    if (flags & ~(uint32_t)RENAME_NOREPLACE || !may_go(source) || source->source != IN_UPPER
        || source->type == DT_DIR)
        return false;
    move->target_fd = tree_upper(move->target);
    if (move->target_fd < 0)
        return false;
    if (replaced != NULL
        && (replaced == source || flags != 0 || replaced->kind != PLAIN || replaced->claimed
            || replaced->source != IN_UPPER || replaced->type == DT_DIR))
        return false;
    if (!nodes_claim(source, &move->source))
        return false;
    move->replaced.child = NULL;
    if (replaced != NULL && !nodes_claim(replaced, &move->replaced)) {
        nodes_settle(&move->source);
        return false;
    }
    move->target->busy++;
    return true;
}

/* The names after the rename. Under the lock. */
static void moved(struct move *move)
{
    struct child *source = move->source.child, *replaced = move->replaced.child;
    bool below = replaced != NULL && replaced->below;
    changes_note(move->source.directory, source->name, source->length, false);
    changes_note(move->target, move->name, move->length, true);
    if (replaced != NULL)
        table_remove_child(replaced);
    struct child *child = table_move_child(source, move->target, move->name, move->length);
    if (child != NULL) {
        child->below = below;
    } else {
        move->target->left = true;
        table_remove_child(source);
    }
}

/* Called without the lock. */
static bool rename_claimed(struct move *move)
{
    const struct child *source = move->source.child;
    bool replaces = move->replaced.child != NULL;
    /* Over a whiteout it fails. */
    unsigned flags = (replaces ? 0 : RENAME_NOREPLACE) | (is_covering(source) ? RENAME_WHITEOUT : 0);
    bool arrives = source->copied && move->target != move->source.directory;
    pthread_mutex_lock(&copyup_names_lock);
    bool done = (!arrives || copyup_announce(move->target, move->target_fd))
                && (!replaces || keep(&move->replaced))
                && renameat2(move->source.above, source->name, move->target_fd, move->name, flags) == 0;
    pthread_mutex_unlock(&copyup_names_lock);
    return done;
}

/* Bring NAME in directory NUMBER to the upper, if it is a plain file of a lower layer. */
static void raise_name(uint64_t number, const char *name, size_t length)
{
    pthread_mutex_lock(&table_lock);
    struct directory *directory = tree_directory(number);
    struct child *child = directory == NULL ? NULL : table_child(directory, name, length);
    uint64_t below = child != NULL && child->source != IN_UPPER && child->node != NULL
                         ? child->node->number : 0;
    pthread_mutex_unlock(&table_lock);
    int fd = below == 0 ? -1 : copyup_file(below, -1);
    if (fd >= 0)
        close(fd);
}

static enum verdict rename_name(const struct request *request, size_t head, uint64_t target,
                                uint32_t flags)
{
    size_t length;
    struct move move;
    const char *name = name_at(request, head, &length);
    move.name = name == NULL ? NULL : name_at(request, head + length + 1, &move.length);
    if (move.name == NULL || !tree_knows(request->header->nodeid) || !tree_knows(target))
        return FORWARD;
    raise_name(request->header->nodeid, name, length);
    pthread_mutex_lock(&table_lock);
    struct directory *directory = tree_directory(request->header->nodeid);
    struct child *child = directory == NULL ? NULL : table_child(directory, name, length);
    move.target = tree_directory(target);
    bool mine = child != NULL && move.target != NULL && claim_move(&move, child, flags);
    pthread_mutex_unlock(&table_lock);
    if (!mine)
        return FORWARD;
    bool replaces = move.replaced.child != NULL;
    bool done = rename_claimed(&move);
    pthread_mutex_lock(&table_lock);
    if (done)
        moved(&move);
    else if (replaces)
        unkeep(&move.replaced);
    table_rest(move.target);
    nodes_settle(&move.source);
    if (replaces)
        nodes_settle(&move.replaced);
    pthread_mutex_unlock(&table_lock);
    return done ? answer(request, 0) : FORWARD;
}

static enum verdict rename_one(const struct request *request)
{
    const struct fuse_rename_in *in = BODY(request, struct fuse_rename_in);
    return in == NULL ? answer(request, EINVAL)
                      : rename_name(request, sizeof(*in), in->newdir, 0);
}

static enum verdict rename_two(const struct request *request)
{
    const struct fuse_rename2_in *in = BODY(request, struct fuse_rename2_in);
    return in == NULL ? answer(request, EINVAL)
                      : rename_name(request, sizeof(*in), in->newdir, in->flags);
}

/* Attributes */

static int resize(const struct fuse_setattr_in *in, const char *path)
{
    if (in->valid & FATTR_FH && handles_own(in->fh)
        && ftruncate((int)in->fh, (off_t)in->size) == 0)
        return 0;
    int fd = open(path, O_WRONLY | O_CLOEXEC | O_NONBLOCK);
    int failed = fd < 0 ? -1 : ftruncate(fd, (off_t)in->size);
    int error = errno;
    if (fd >= 0)
        close(fd);
    errno = error;
    return failed;
}

static struct timespec time_of(uint32_t valid, uint32_t set, uint32_t now, uint64_t seconds,
                               uint32_t rest)
{
    if (valid & now)
        return (struct timespec){.tv_nsec = UTIME_NOW};
    if (valid & set)
        return (struct timespec){.tv_sec = (time_t)seconds, .tv_nsec = rest};
    return (struct timespec){.tv_nsec = UTIME_OMIT};
}

enum {
    ANY_CHANGE = FATTR_MODE | FATTR_UID | FATTR_GID | FATTR_SIZE | FATTR_ATIME | FATTR_MTIME
                 | FATTR_ATIME_NOW | FATTR_MTIME_NOW
};

/*
 * Whether who asks may not keep set-user-ID and set-group-ID. A request without any change comes
 * before a write (FUSE_HANDLE_KILLPRIV_V2).
 */
static bool ends_privileges(const struct fuse_setattr_in *in)
{
    return in->valid & FATTR_KILL_SUIDGID || !(in->valid & ANY_CHANGE);
}

/* As setattr_should_drop_suidgid of fs/attr.c. Answers 0, or -1 with errno. */
static int end_privileges(const char *path)
{
    struct stat status;
    if (stat(path, &status) != 0)
        return -1;
    mode_t privileges = status.st_mode & (S_ISUID | (status.st_mode & S_IXGRP ? S_ISGID : 0));
    if (!S_ISREG(status.st_mode) || privileges == 0)
        return 0;
    return chmod(path, status.st_mode & 07777 & ~privileges);
}

/* In this order: a change of owner takes set-user-ID away. Answers 0, or an errno. */
static int apply(const struct fuse_setattr_in *in, int fd)
{
    char path[sizeof("/proc/self/fd/") + 3 * sizeof(int)];
    uint32_t valid = in->valid;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    if (valid & FATTR_SIZE && resize(in, path) != 0)
        return errno;
    if (ends_privileges(in) && end_privileges(path) != 0)
        return errno;
    if (valid & (FATTR_UID | FATTR_GID)
        && fchownat(fd, "", valid & FATTR_UID ? in->uid : (uid_t)-1,
                    valid & FATTR_GID ? in->gid : (gid_t)-1, AT_EMPTY_PATH) != 0)
        return errno;
    if (valid & FATTR_MODE && chmod(path, in->mode & 07777) != 0)
        return errno;
    if (valid & (FATTR_ATIME | FATTR_MTIME | FATTR_ATIME_NOW | FATTR_MTIME_NOW)) {
        struct timespec times[2] = {
            time_of(valid, FATTR_ATIME, FATTR_ATIME_NOW, in->atime, in->atimensec),
            time_of(valid, FATTR_MTIME, FATTR_MTIME_NOW, in->mtime, in->mtimensec)};
        if (utimensat(AT_FDCWD, path, times, 0) != 0)
            return errno;
    }
    return 0;
}

static enum verdict set_attributes(const struct request *request)
{
    const struct fuse_setattr_in *in = BODY(request, struct fuse_setattr_in);
    struct fuse_attr_out out = {.attr_valid = FOREVER};
    if (in == NULL)
        return answer(request, EINVAL);
    uint64_t number = request->header->nodeid;
    int fd = nodes_open_upper(number, O_PATH);
    if (fd < 0)
        fd = copyup_file(number, in->valid & FATTR_SIZE ? (off_t)in->size : -1);
    if (fd < 0)
        return FORWARD;
    int error = apply(in, fd);
    close(fd);
    if (error != 0)
        return answer(request, error);
    if (nodes_attributes(number, &out.attr) != 0)
        return FORWARD; /* once more, and nothing changes by that */
    reply_data(request->header->unique, &out, sizeof(out));
    return ANSWERED;
}

/* Syncing */

struct syncing {
    uint64_t unique;
    int fd;
    bool data_only;
};

static void *sync_file(void *argument)
{
    struct syncing *syncing = argument;
    int failed = syncing->data_only ? fdatasync(syncing->fd) : fsync(syncing->fd);
    reply_error(syncing->unique, failed ? errno : 0);
    free(syncing);
    return NULL;
}

/* In a thread of its own, since it may take long. */
static enum verdict sync_handle(const struct request *request)
{
    const struct fuse_fsync_in *in = BODY(request, struct fuse_fsync_in);
    pthread_t thread;
    if (in == NULL)
        return answer(request, EINVAL);
    if (!handles_own(in->fh))
        return FORWARD;
    if (!syncing)
        return answer(request, 0);
    struct syncing *sync = malloc(sizeof(*sync));
    if (sync == NULL)
        return answer(request, ENOMEM);
    *sync = (struct syncing){request->header->unique, (int)in->fh,
                             (in->fsync_flags & FUSE_FSYNC_FDATASYNC) != 0};
    if (pthread_create(&thread, NULL, sync_file, sync) == 0)
        pthread_detach(thread);
    else
        sync_file(sync);
    return ANSWERED;
}

enum verdict changes_handle(const struct request *request)
{
    switch (request->header->opcode) {
    case FUSE_CREATE:
        return create(request);
    case FUSE_MKDIR:
        return make_directory(request);
    case FUSE_MKNOD:
        return make_node(request);
    case FUSE_SYMLINK:
        return make_link(request);
    case FUSE_UNLINK:
        return take_away(request, false);
    case FUSE_RMDIR:
        return take_away(request, true);
    case FUSE_RENAME:
        return rename_one(request);
    case FUSE_RENAME2:
        return rename_two(request);
    case FUSE_SETATTR:
        return set_attributes(request);
    case FUSE_FSYNC:
        return sync_handle(request);
    default:
        return FORWARD;
    }
}
