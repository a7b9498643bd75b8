#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "changes.h"
#include "copyup.h"
#include "names.h"
#include "waiting.h"

/* A request that waits for libfuse. */
struct message {
    struct message *next;
    size_t size;
    char bytes[];
};

/* A request that libfuse has, and whose reply is looked at on its way out. */
struct pending {
    struct pending *next;
    size_t size;
    struct fuse_in_header header; /* and the rest of the request */
};

enum { PENDING_BUCKETS = 256 };

static int kernel_fd = -1;
static int ready_fd = -1;
static size_t request_most;
static struct message *first; /* what libfuse reads first */
static uint64_t first_unique;
static atomic_int opens_below; /* so many descriptors are not all taken before libfuse has begun */
static atomic_int serving;     /* threads */
static bool showing;
static bool only_ours; /* and root's are the requests that are granted */

static pthread_mutex_t queue_lock = PTHREAD_MUTEX_INITIALIZER;
static struct message *queue_head, **queue_tail = &queue_head;
static bool queue_ended;

static pthread_mutex_t pending_lock = PTHREAD_MUTEX_INITIALIZER;
static struct pending *pending_table[PENDING_BUCKETS];

int channel_device(void)
{
    return kernel_fd;
}

int channel_ready(void)
{
    return ready_fd;
}

void channel_configure(bool only, bool debug)
{
    only_ours = only;
    showing = debug;
}

/* Replies */

static bool reply(uint64_t unique, int error, const void *data, size_t size)
{
    struct fuse_out_header header = {
        .len = (uint32_t)(sizeof(header) + size), .error = -error, .unique = unique};
    struct iovec parts[2] = {{&header, sizeof(header)}, {(void *)data, size}};
    /* It fails when whoever asked was killed meanwhile, or the mount is gone: nobody waits. */
    return writev(kernel_fd, parts, size ? 2 : 1) >= 0;
}

void reply_error(uint64_t unique, int error)
{
    reply(unique, error, NULL, 0);
}

bool reply_data(uint64_t unique, const void *data, size_t size)
{
    return reply(unique, 0, data, size);
}

void notify_store(uint64_t node, const void *data, size_t size)
{
    struct fuse_notify_store_out out = {.nodeid = node, .size = (uint32_t)size};
    struct fuse_out_header header = {
        .len = (uint32_t)(sizeof(header) + sizeof(out) + size), .error = FUSE_NOTIFY_STORE};
    struct iovec parts[3] = {
        {&header, sizeof(header)}, {&out, sizeof(out)}, {(void *)data, size}};
    /* If it fails, the kernel asks for the content. */
    ssize_t written = writev(kernel_fd, parts, 3);
    (void)written;
}

void notify_changed(uint64_t node)
{
    struct fuse_notify_inval_inode_out out = {.ino = node, .off = -1};
    struct fuse_out_header header = {.len = (uint32_t)(sizeof(header) + sizeof(out)),
                                     .error = FUSE_NOTIFY_INVAL_INODE};
    struct iovec parts[2] = {{&header, sizeof(header)}, {&out, sizeof(out)}};
    /* It fails if the kernel knows the node no more. */
    ssize_t written = writev(kernel_fd, parts, 2);
    (void)written;
}

/* What libfuse has to answer */

static void ready(void)
{
    uint64_t one = 1;
    while (write(ready_fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

/* A message of SIZE bytes, NULL without memory. */
static struct message *new_message(const void *bytes, size_t size)
{
    struct message *message = malloc(sizeof(*message) + size);
    if (message == NULL)
        return NULL;
    message->size = size;
    memcpy(message->bytes, bytes, size);
    return message;
}

static void enqueue(struct message *message)
{
    pthread_mutex_lock(&queue_lock);
    bool was_empty = queue_head == NULL;
    message->next = NULL;
    *queue_tail = message;
    queue_tail = &message->next;
    if (was_empty)
        ready();
    pthread_mutex_unlock(&queue_lock);
}

/* A count of references that no kernel gives up. As unionfs/mirror.py has it. */
#define PIN (UINT64_C(1) << 63)

/* A directory that the plane has dropped: Python gets its reference back. */
void table_unpin(uint64_t number)
{
    struct {
        struct fuse_in_header header;
        struct fuse_forget_in body;
    } forget = {{.len = sizeof(forget), .opcode = FUSE_FORGET, .nodeid = number}, {.nlookup = PIN}};
    struct message *message = new_message(&forget, sizeof(forget));
    if (message != NULL)
        enqueue(message); /* else Python keeps it until the mount ends */
}

void channel_begin(void)
{
    pthread_mutex_lock(&queue_lock);
    first->next = queue_head;
    queue_head = first;
    if (first->next == NULL)
        queue_tail = &first->next;
    ready();
    pthread_mutex_unlock(&queue_lock);
}

bool channel_ended(void)
{
    pthread_mutex_lock(&queue_lock);
    bool ended = queue_ended;
    pthread_mutex_unlock(&queue_lock);
    return ended;
}

static void end_queue(void)
{
    pthread_mutex_lock(&queue_lock);
    queue_ended = true;
    ready();
    pthread_mutex_unlock(&queue_lock);
}

/* The message at the queue's head, off it; NULL if there is none. Under the lock. */
static struct message *dequeue(void)
{
    struct message *message = queue_head;
    if (message != NULL) {
        queue_head = message->next;
        if (queue_head == NULL)
            queue_tail = &queue_head;
    }
    if (queue_head == NULL && !queue_ended) {
        uint64_t count;
        while (read(ready_fd, &count, sizeof(count)) < 0 && errno == EINTR)
            ;
    }
    return message;
}

ssize_t channel_read(int fd, void *buffer, size_t size, void *data)
{
    (void)fd, (void)data;
    pthread_mutex_lock(&queue_lock);
    struct message *message = dequeue();
    bool ended = queue_ended;
    pthread_mutex_unlock(&queue_lock);
    if (message == NULL) {
        /* Another task of pyfuse3 may have taken what this one was woken for. */
        errno = ended ? ENODEV : EINTR;
        return -1;
    }
    /* libfuse's buffer has room for the longest request there is. */
    size_t length = message->size < size ? message->size : size;
    memcpy(buffer, message->bytes, length);
    free(message);
    return (ssize_t)length;
}

static struct pending **pending_slot(uint64_t unique)
{
    struct pending **slot = &pending_table[unique / 2 % PENDING_BUCKETS];
    while (*slot != NULL && (*slot)->header.unique != unique)
        slot = &(*slot)->next;
    return slot;
}

/* Remember a request whose reply is to be looked at; without memory the reply stays as it is. */
static void remember(const struct fuse_in_header *header, size_t size)
{
    struct pending *pending = malloc(offsetof(struct pending, header) + size);
    if (pending == NULL)
        return;
    pending->size = size;
    memcpy(&pending->header, header, size);
    pthread_mutex_lock(&pending_lock);
    struct pending **slot = pending_slot(header->unique);
    pending->next = *slot;
    *slot = pending;
    pthread_mutex_unlock(&pending_lock);
}

/* The remembered request that has UNIQUE, to be freed; NULL if there is none. */
static struct pending *recall(uint64_t unique)
{
    pthread_mutex_lock(&pending_lock);
    struct pending **slot = pending_slot(unique);
    struct pending *pending = *slot;
    if (pending != NULL)
        *slot = pending->next;
    pthread_mutex_unlock(&pending_lock);
    return pending;
}

static bool opens(uint32_t opcode)
{
    return opcode == FUSE_OPEN || opcode == FUSE_CREATE;
}

/* Whether Python may know how the plane can answer a request: then what it may LACK. */
static bool may_come_again(const struct request *request, enum lack *lack)
{
    const struct fuse_open_in *open = BODY(request, struct fuse_open_in);
    switch (request->header->opcode) {
    case FUSE_LOOKUP:
        *lack = LACKS_NAMES;
        return true;
    case FUSE_READDIRPLUS:
        *lack = LACKS_LISTING;
        return true;
    case FUSE_CREATE:
    case FUSE_MKNOD:
    case FUSE_MKDIR:
    case FUSE_SYMLINK:
        *lack = LACKS_PARENT;
        return true;
    case FUSE_UNLINK:
    case FUSE_RENAME:
    case FUSE_RENAME2:
        *lack = LACKS_AROUND;
        return true;
    case FUSE_SETATTR:
        *lack = LACKS_UPPER;
        return true;
    case FUSE_OPEN:
        *lack = open != NULL && open->flags & (O_ACCMODE | O_TRUNC) ? LACKS_UPPER : LACKS_CONTENT;
        return true;
    default:
        return false;
    }
}

static void forward(const struct request *request)
{
    struct translation room;
    struct request sent = *request;
    if (translate_request(&sent, &room) == ANSWERED)
        return;
    const struct fuse_in_header *header = sent.header;
    size_t size = sizeof(*header) + sent.size;
    struct message *message = malloc(sizeof(*message) + size);
    if (message == NULL) {
        if (header->opcode != FUSE_FORGET && header->opcode != FUSE_BATCH_FORGET)
            reply_error(header->unique, ENOMEM);
        return;
    }
    message->size = size;
    memcpy(message->bytes, header, sizeof(*header));
    memcpy(message->bytes + sizeof(*header), sent.body, sent.size);
    enum lack lack;
    if (may_come_again(request, &lack) || request->header->opcode == FUSE_IOCTL)
        remember(request->header, sizeof(*header) + request->size);
    enqueue(message);
}

/* Replies of libfuse on their way to the kernel */

enum { REPLY_PARTS = 3 };

/*
 * The reply that comes after the entry in a CREATE's reply, and alone in an OPEN's: a copy, as
 * libfuse's memory is libfuse's. Answers its size, 0 if PARTS has another shape.
 */
static size_t copy_reply(const struct iovec *parts, int count, char *copy, size_t room)
{
    size_t size = 0;
    for (int part = 1; part < count; part++) {
        if (parts[part].iov_len > room - size)
            return 0;
        memcpy(copy + size, parts[part].iov_base, parts[part].iov_len);
        size += parts[part].iov_len;
    }
    return size;
}

static ssize_t write_opened(const struct pending *pending, struct iovec *parts, int count)
{
    struct {
        struct fuse_entry_out entry;
        struct open_reply open;
    } created;
    char *copy = (char *)&created;
    size_t size = copy_reply(parts, count, copy, sizeof(created));
    uint64_t node = pending->header.nodeid;
    struct open_reply *open = (struct open_reply *)copy;
    if (pending->header.opcode == FUSE_CREATE) {
        node = created.entry.nodeid;
        open = &created.open;
    }
    if ((char *)open + sizeof(*open) != copy + size)
        return writev(kernel_fd, parts, count);
    /* Bodies of OPEN and CREATE begin with the flags. */
    handles_opened(node, ((const struct fuse_open_in *)(&pending->header + 1))->flags, open);
    struct iovec whole[2] = {parts[0], {copy, size}};
    ssize_t written = writev(kernel_fd, whole, 2);
    if (written < 0) {
        int error = errno;
        handles_closed(open->fh);
        errno = error;
    }
    return written;
}

/* Requests of the kernel */

static void show(const struct fuse_in_header *header)
{
    static const char *const names[] = {
        [FUSE_LOOKUP] = "LOOKUP",
        [FUSE_FORGET] = "FORGET",
        [FUSE_BATCH_FORGET] = "BATCH_FORGET",
        [FUSE_GETATTR] = "GETATTR",
        [FUSE_SETATTR] = "SETATTR",
        [FUSE_READLINK] = "READLINK",
        [FUSE_SYMLINK] = "SYMLINK",
        [FUSE_MKNOD] = "MKNOD",
        [FUSE_MKDIR] = "MKDIR",
        [FUSE_UNLINK] = "UNLINK",
        [FUSE_RMDIR] = "RMDIR",
        [FUSE_RENAME] = "RENAME",
        [FUSE_RENAME2] = "RENAME2",
        [FUSE_CREATE] = "CREATE",
        [FUSE_FSYNC] = "FSYNC",
        [FUSE_STATFS] = "STATFS",
        [FUSE_FLUSH] = "FLUSH",
        [FUSE_OPEN] = "OPEN",
        [FUSE_RELEASE] = "RELEASE",
        [FUSE_GETXATTR] = "GETXATTR",
        [FUSE_OPENDIR] = "OPENDIR",
        [FUSE_READDIRPLUS] = "READDIRPLUS",
        [FUSE_RELEASEDIR] = "RELEASEDIR",
        [FUSE_READ] = "READ",
        [FUSE_WRITE] = "WRITE",
        [FUSE_LSEEK] = "LSEEK",
        [FUSE_FALLOCATE] = "FALLOCATE",
        [FUSE_COPY_FILE_RANGE] = "COPY_FILE_RANGE",
        [FUSE_IOCTL] = "IOCTL",
    };
    const char *name = NULL;
    if (header->opcode < sizeof(names) / sizeof(names[0]))
        name = names[header->opcode];
    fprintf(stderr, "unique: %llu, opcode: %s (%u), nodeid: %llu, insize: %u, pid: %u\n",
            (unsigned long long)header->unique, name ? name : "???", header->opcode,
            (unsigned long long)header->nodeid, header->len, header->pid);
}

/*
 * Whether somebody asks who is not to use the mount (allow_root of mount.fuse3(8)): libfuse refuses
 * it then. What is open for others they may use, as there.
 */
static bool is_refused(const struct fuse_in_header *header)
{
    if (!only_ours || header->uid == 0 || header->uid == getuid())
        return false;
    switch (header->opcode) {
    case FUSE_READ:
    case FUSE_WRITE:
    case FUSE_FSYNC:
    case FUSE_READDIRPLUS:
    case FUSE_RELEASE:
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
        return false;
    default:
        return true;
    }
}

/* Whether Python would be short of descriptors to be loaded with, if another file were opened here. */
static bool leaves_too_few(const struct fuse_in_header *header)
{
    return opens(header->opcode) && handles_highest() >= opens_below;
}

/* In a thread of its own, as handle: what takes so long that the others should not wait for it. */
static bool handle_aside(const char *bytes, size_t size, bool again);

/* AGAIN: Python had it already. */
static void handle(char *bytes, size_t size, struct scratch *scratch, bool again)
{
    const struct fuse_in_header *header = (const struct fuse_in_header *)bytes;
    if (size < sizeof(*header) || header->len != size)
        return; /* never from a kernel */
    struct request request = {header, bytes + sizeof(*header), size - sizeof(*header)};
    if (is_refused(header) || leaves_too_few(header)) {
        forward(&request);
        return;
    }
    enum verdict verdict = files_handle(&request, scratch);
    if (verdict == FORWARD)
        verdict = names_handle(&request, scratch);
    if (verdict == FORWARD)
        verdict = changes_handle(&request);
    bool was_long = copyup_was_long();
    if (verdict == FORWARD && was_long && handle_aside(bytes, size, again))
        return;
    if (verdict == FORWARD)
        forward(&request);
    else if (showing && !again)
        show(header);
}

/* libfuse's replies, once more: what Python says that the plane can answer now */

/*
 * Python's error for: the directory is known now, so look again. No errno of Linux is as large.
 * As unionfs/driver/plane/__init__.py has it.
 */
enum { AGAIN = 600 };

static ssize_t size_of(const struct iovec *parts, int count)
{
    ssize_t size = 0;
    for (int part = 0; part < count; part++)
        size += (ssize_t)parts[part].iov_len;
    return size;
}

/* Of the thread that runs Python. */
static struct scratch *python_scratch(void)
{
    static struct scratch scratch;
    if (scratch.memory == NULL) {
        scratch.memory = malloc(request_most);
        scratch.size = scratch.memory == NULL ? 0 : request_most;
    }
    return &scratch;
}

ssize_t channel_write(int fd, struct iovec *parts, int count, void *data)
{
    (void)fd, (void)data;
    const struct fuse_out_header *header = parts[0].iov_base;
    if (header->unique == first_unique) {
        opens_below = INT_MAX;
        return size_of(parts, count);
    }
    struct pending *pending = header->unique == 0 ? NULL : recall(header->unique);
    ssize_t written;
    if (pending != NULL && header->error == -AGAIN) {
        handle((char *)&pending->header, pending->size, python_scratch(), true);
        written = size_of(parts, count);
    } else if (pending != NULL && header->error == 0 && pending->header.opcode == FUSE_IOCTL) {
        written = translate_reply(kernel_fd, parts, count);
    } else if (pending != NULL && header->error == 0 && opens(pending->header.opcode)) {
        written = write_opened(pending, parts, count);
    } else {
        written = writev(kernel_fd, parts, count);
    }
    free(pending);
    return written;
}

/* Before libfuse is there */

/* The name that a request is about, the first one; "" where there is none. */
static const char *name_of(const struct request *request)
{
    size_t before;
    switch (request->header->opcode) {
    case FUSE_LOOKUP:
    case FUSE_UNLINK:
    case FUSE_SYMLINK:
        before = 0;
        break;
    case FUSE_MKDIR:
        before = sizeof(struct fuse_mkdir_in);
        break;
    case FUSE_MKNOD:
        before = sizeof(struct fuse_mknod_in);
        break;
    case FUSE_CREATE:
        before = sizeof(struct fuse_create_in);
        break;
    case FUSE_RENAME:
        before = sizeof(struct fuse_rename_in);
        break;
    case FUSE_RENAME2:
        before = sizeof(struct fuse_rename2_in);
        break;
    default:
        return "";
    }
    const char *name = (const char *)request->body + before;
    bool ends = before < request->size && memchr(name, '\0', request->size - before) != NULL;
    return ends ? name : "";
}

bool channel_first(struct waiting_request *found)
{
    bool may = false;
    pthread_mutex_lock(&queue_lock);
    pthread_mutex_lock(&pending_lock);
    const struct fuse_in_header *header =
        queue_head == NULL ? NULL : (const struct fuse_in_header *)queue_head->bytes;
    const struct pending *pending = header == NULL ? NULL : *pending_slot(header->unique);
    if (pending != NULL) {
        const struct request request = {&pending->header, &pending->header + 1,
                                        pending->size - sizeof(pending->header)};
        const char *name = name_of(&request);
        /* "/" is none, see translate.c. */
        may = strlen(name) <= NAME_MAX && strchr(name, '/') == NULL
              && !is_refused(&pending->header) && !leaves_too_few(&pending->header)
              && may_come_again(&request, &found->lack);
        if (may) {
            found->node = pending->header.nodeid;
            strcpy(found->name, name);
        }
    }
    pthread_mutex_unlock(&pending_lock);
    pthread_mutex_unlock(&queue_lock);
    return may;
}

void channel_again(void)
{
    pthread_mutex_lock(&queue_lock);
    struct message *message = dequeue();
    pthread_mutex_unlock(&queue_lock);
    if (message == NULL)
        return;
    struct pending *pending = recall(((const struct fuse_in_header *)message->bytes)->unique);
    if (pending != NULL)
        handle((char *)&pending->header, pending->size, python_scratch(), false);
    free(pending);
    free(message);
}

/* Threads */

static void end_serving(void)
{
    if (atomic_fetch_sub(&serving, 1) == 1)
        end_queue();
}

static void *serve(void *argument)
{
    (void)argument;
    changes_begin();
    struct waiting waiting = {0};
    char *bytes = malloc(request_most);
    struct scratch scratch = {malloc(request_most), request_most};
    while (bytes != NULL && scratch.memory != NULL) {
        ssize_t size = waiting_receive(&waiting, bytes);
        if (size > 0)
            handle(bytes, (size_t)size, &scratch, false);
        else if (size == 0 || (errno != EINTR && errno != ENOENT))
            break; /* ENODEV: unmounted. ECONNABORTED: see fusectl. */
    }
    waiting_resign(&waiting);
    free(scratch.memory);
    free(bytes);
    end_serving();
    return NULL;
}

/* Signals are Python's. Answers 0, or an errno. */
static int start_thread(void *(*run)(void *), void *argument)
{
    pthread_t thread;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&thread, NULL, run, argument);
    if (error == 0)
        pthread_detach(thread);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

/* A request that is handled aside. */
struct errand {
    bool again;
    size_t size;
    char bytes[]; /* aligned as what is before it */
};

static void *run_errand(void *argument)
{
    struct errand *errand = argument;
    struct scratch scratch = {malloc(request_most), request_most};
    changes_begin();
    copyup_take_time();
    if (scratch.memory == NULL)
        scratch.size = 0;
    handle(errand->bytes, errand->size, &scratch, errand->again);
    free(scratch.memory);
    free(errand);
    end_serving();
    return NULL;
}

/* One more thread serves, unless none does any more: then what they use may be closed. */
static bool go_on_serving(void)
{
    int count = serving;
    while (count > 0)
        if (atomic_compare_exchange_weak(&serving, &count, count + 1))
            return true;
    return false;
}

static bool handle_aside(const char *bytes, size_t size, bool again)
{
    struct errand *errand = malloc(sizeof(*errand) + size);
    if (errand == NULL)
        return false;
    errand->again = again;
    errand->size = size;
    memcpy(errand->bytes, bytes, size);
    if (go_on_serving()) {
        if (start_thread(run_errand, errand) == 0)
            return true;
        end_serving();
    }
    free(errand);
    return false;
}

enum { RESERVED = 64 };

/*
 * Have the table of descriptors grow while there is one thread. Later the kernel waits each time, some
 * 20 ms, until all processors have seen it (expand_fdtable of fs/file.c).
 */
static void make_room_for_descriptors(int fd, int limit)
{
    enum { ROOM = 1 << 14 };
    int high = fcntl(fd, F_DUPFD_CLOEXEC, limit < ROOM ? limit - 1 : ROOM - 1);
    if (high >= 0)
        close(high);
}

int channel_start(int kernel, int threads, size_t most, const void *begin, size_t size)
{
    if (size < sizeof(struct fuse_in_header) || (first = new_message(begin, size)) == NULL) {
        errno = EINVAL;
        return -1;
    }
    first_unique = ((const struct fuse_in_header *)first->bytes)->unique;
    kernel_fd = kernel;
    request_most = most;
    waiting_configure(kernel, most);
    ready_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (ready_fd < 0 || fcntl(kernel, F_SETFL, O_NONBLOCK) < 0)
        return -1;
    int limit = table_descriptors_most();
    opens_below = limit - RESERVED;
    make_room_for_descriptors(kernel, limit);
    int started = 0;
    int error = 0;
    while (started < threads && error == 0) {
        atomic_fetch_add(&serving, 1);
        error = start_thread(serve, NULL);
        if (error == 0)
            started++;
        else
            atomic_fetch_sub(&serving, 1);
    }
    if (started == 0) {
        close(ready_fd);
        ready_fd = -1;
        errno = error;
        return -1;
    }
    return ready_fd;
}
