#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "ahead.h"
#include "copyup.h"
#include "names.h"

/* Bytes of a file that are given to the kernel with the reply that opens it. */

static enum verdict answer_with(const struct request *request, const void *data, size_t size)
{
    reply_data(request->header->unique, data, size);
    return ANSWERED;
}

struct fuse_entry_out names_entry(const struct node *node, const struct fuse_attr *attributes)
{
    return (struct fuse_entry_out){.nodeid = node->number,
                                   .entry_valid = FOREVER,
                                   .attr_valid = FOREVER,
                                   .attr = *attributes};
}

/* What Python says */

static void ask_for(const struct directory *directory, const struct child *child,
                    names_asker *ask, void *data)
{
    struct question question = {child->name, child->length, tree_layer(directory, child->source)};
    ask(&question, data);
}

static void ask_for_names(const struct directory *directory, names_asker *ask, void *data)
{
    for (size_t at = 0; at < directory->count; at++) {
        const struct child *child = directory->children[at];
        if (!child->gone && child->kind != PLAIN)
            ask_for(directory, child, ask, data);
    }
}

int names_fill(uint64_t number, uint64_t above, uint64_t references, struct source *sources,
               size_t count, int upper_fd, names_asker *ask, void *data)
{
    struct node *node;
    struct directory *directory = tree_read(sources, count, upper_fd);
    if (directory == NULL)
        return errno;
    pthread_mutex_lock(&table_lock);
    int error = tree_install(directory, number, &node);
    if (error == 0) {
        if (!node->pinned) {
            node->pinned = true;
            node->references = references;
            node->above = above;
        }
        ask_for_names(directory, ask, data);
    }
    table_rest(directory);
    pthread_mutex_unlock(&table_lock);
    return error;
}

void names_unknown(uint64_t number, names_asker *ask, void *data)
{
    pthread_mutex_lock(&table_lock);
    const struct directory *directory = tree_directory(number);
    for (size_t at = 0; directory != NULL && at < directory->count; at++) {
        struct child *child = directory->children[at];
        if (!child->gone && child->kind == ASK && child->number == 0 && !child->asked) {
            child->asked = 1;
            ask_for(directory, child, ask, data);
        }
    }
    pthread_mutex_unlock(&table_lock);
}

/* CHILD is NODE's name from now on, or Python's affair alone (NULL). */
static void join(struct child *child, struct node *node)
{
    if (child->node != NULL)
        child->node->child = NULL;
    if (node != NULL && node->child != NULL)
        node->child->node = NULL;
    child->node = node;
    if (node != NULL)
        node->child = child;
}

bool names_put(uint64_t parent, const char *name, size_t length, uint64_t number, uint8_t type,
               uint64_t references)
{
    bool taken = false;
    pthread_mutex_lock(&table_lock);
    struct directory *directory = tree_directory(parent);
    if (directory == NULL || length > NAME_MAX)
        goto unlock;
    struct child *child = table_child(directory, name, length);
    if (child == NULL)
        child = table_add_child(directory, name, length);
    if (child == NULL) {
        directory->left = true;
        goto unlock;
    }
    child->type = type;
    child->number = number;
    child->kind = ASK;
    struct node *node = type == DT_DIR ? table_find(number) : NULL;
    if (node == NULL && type == DT_DIR) {
        node = table_add(number);
        if (node != NULL) {
            node->references = references;
            node->is_directory = node->pinned = node->changing = true;
            taken = true;
        }
    }
    join(child, node);
    if (node != NULL)
        node->above = parent;
unlock:
    pthread_mutex_unlock(&table_lock);
    return taken;
}

void names_describe(uint64_t number, const struct fuse_attr *attributes)
{
    pthread_mutex_lock(&table_lock);
    struct node *node = table_find(number);
    if (node != NULL && node->is_directory) {
        node->attributes = *attributes;
        node->changing = false;
    }
    pthread_mutex_unlock(&table_lock);
}

void names_remove(uint64_t parent, const char *name, size_t length)
{
    pthread_mutex_lock(&table_lock);
    struct directory *directory = tree_directory(parent);
    struct child *child = directory == NULL ? NULL : table_child(directory, name, length);
    if (child != NULL)
        table_remove_child(child);
    pthread_mutex_unlock(&table_lock);
}

void names_raised(uint64_t number, int upper_fd)
{
    pthread_mutex_lock(&table_lock);
    struct node *node = table_find(number);
    struct directory *directory = node == NULL ? NULL : node->directory;
    if (directory != NULL && directory->upper_fd < 0) {
        directory->upper = true;
        table_set_upper_fd(directory, upper_fd);
        node->upper = true;
        node->changing = false;
    } else {
        close(upper_fd);
        if (node != NULL && directory == NULL)
            node->changing = true;
    }
    pthread_mutex_unlock(&table_lock);
}

void names_leave(uint64_t number)
{
    pthread_mutex_lock(&table_lock);
    struct directory *directory = tree_directory(number);
    if (directory != NULL)
        directory->left = true;
    pthread_mutex_unlock(&table_lock);
}

bool names_refer(uint64_t number)
{
    pthread_mutex_lock(&table_lock);
    struct node *node = table_find(number);
    if (node != NULL)
        node->references++;
    pthread_mutex_unlock(&table_lock);
    return node != NULL;
}

/* A settled node that has all its names, if it is a directory that has some. */
static struct node *whole_node(uint64_t number)
{
    struct node *node = nodes_settled(number);
    while (node != NULL && node->directory != NULL && node->directory->partial
           && !node->directory->left) {
        pthread_mutex_unlock(&table_lock);
        bool whole = tree_knows(number);
        pthread_mutex_lock(&table_lock);
        node = nodes_settled(number);
        if (!whole && node != NULL && node->directory != NULL)
            node->directory->left = true; /* Python knows the rule, or the error */
    }
    return node;
}

bool names_filled(uint64_t number)
{
    pthread_mutex_lock(&table_lock);
    bool filled = tree_directory(number) != NULL;
    pthread_mutex_unlock(&table_lock);
    return filled;
}

int names_any(uint64_t number)
{
    pthread_mutex_lock(&table_lock);
    const struct directory *directory = tree_directory(number);
    int any = directory == NULL || directory->left ? -1 : directory->count > directory->gone;
    pthread_mutex_unlock(&table_lock);
    return any;
}

uint64_t names_number(uint64_t parent, const char *name, size_t length)
{
    uint64_t number = 0;
    pthread_mutex_lock(&table_lock);
    struct node *node = table_find(parent);
    struct directory *directory = node == NULL ? NULL : node->directory;
    struct child *child = directory == NULL ? NULL : table_child(directory, name, length);
    if (child != NULL && child->node != NULL && !child->node->pinned)
        number = child->node->number;
    pthread_mutex_unlock(&table_lock);
    return number;
}

bool names_where(uint64_t number, struct whereabouts *found)
{
    pthread_mutex_lock(&table_lock);
    const struct node *node = nodes_settled(number);
    const struct child *child = node == NULL || node->pinned ? NULL : node->child;
    int *layers = NULL;
    if (child != NULL && child->directory->node != NULL)
        layers = calloc(child->more + 1u, sizeof(*layers));
    if (layers != NULL) {
        *found = (struct whereabouts){
            .parent = child->directory->node->number,
            .length = child->length,
            .attributes = node->attributes,
            .count = child->more + 1u,
            .layers = layers,
        };
        memcpy(found->name, child->name, child->length);
        for (size_t at = 0; at < found->count; at++)
            layers[at] = tree_layer(child->directory,
                                    at == 0 ? child->source : child->further[at - 1]);
    }
    pthread_mutex_unlock(&table_lock);
    return layers != NULL;
}

uint64_t names_adopt(uint64_t number, handles_taker *take, void *data, int *fd, int *layer)
{
    uint64_t references = 0;
    *fd = -1;
    *layer = layers_upper();
    pthread_mutex_lock(&table_lock);
    struct node *node = whole_node(number);
    if (node == NULL || node->pinned)
        goto unlock;
    if (node->child != NULL) {
        node->child->kind = ASK;
        node->child->number = number;
    }
    if (node->is_directory) {
        node->pinned = true;
        references = 1;
        if (node->child == NULL && node->fd >= 0)
            *fd = fcntl(node->fd, F_DUPFD_CLOEXEC, 0);
    } else {
        references = node->references;
        *fd = node->fd;
        *layer = node->upper ? layers_upper() : node->layer;
        node->fd = -1;
        handles_give(number, take, data);
        table_drop(node);
    }
unlock:
    pthread_mutex_unlock(&table_lock);
    return references;
}

/* Reading */

/* The directory NUMBER, busy, if the plane can say what is in it. Gives the lock up meanwhile. */
static struct directory *directory_of_name(uint64_t number)
{
    struct directory *directory = tree_asked(number);
    if (directory != NULL)
        return directory;
    pthread_mutex_unlock(&table_lock);
    bool known = tree_knows(number);
    pthread_mutex_lock(&table_lock);
    directory = known ? tree_directory(number) : NULL;
    if (directory != NULL)
        directory->busy++;
    return directory;
}

/* ENTRY is that of NAME in DIRECTORY, or stays as it is if there is none. */
static enum verdict look_up(struct directory *directory, const char *name, size_t length, int *fds,
                            struct fuse_entry_out *entry)
{
    struct fuse_attr attributes;
    struct child *child = table_child(directory, name, length);
    if (child == NULL && directory->partial) {
        if (!tree_ask(directory, name, length, fds))
            return FORWARD;
        child = table_child(directory, name, length);
    }
    if (child == NULL)
        return ANSWERED;
    struct node *node = nodes_look(child, fds, &attributes);
    if (node == NULL)
        return FORWARD;
    node->references++;
    *entry = names_entry(node, &attributes);
    return ANSWERED;
}

static enum verdict lookup(const struct request *request)
{
    const char *name = request->body;
    size_t length = strnlen(name, request->size);
    /* A name that is not there has no number, and may be remembered. */
    struct fuse_entry_out entry = {.entry_valid = FOREVER};
    enum verdict verdict = FORWARD;
    if (length == request->size)
        return answer(request, EINVAL);
    if (length > NAME_MAX)
        return FORWARD;
    pthread_mutex_lock(&table_lock);
    struct directory *directory = directory_of_name(request->header->nodeid);
    if (directory != NULL) {
        int fds[TREE_DESCRIPTORS(directory)];
        table_take(directory, fds);
        verdict = look_up(directory, name, length, fds, &entry);
        table_give(directory, fds);
        table_rest(directory);
    }
    pthread_mutex_unlock(&table_lock);
    if (verdict == ANSWERED && !reply_data(request->header->unique, &entry, sizeof(entry)))
        names_forget(entry.nodeid, 1); /* who asked was killed: the kernel has no reference */
    return verdict;
}

static enum verdict get_attributes(const struct request *request)
{
    struct fuse_attr_out out = {.attr_valid = FOREVER};
    int error = nodes_attributes(request->header->nodeid, &out.attr);
    return error == 0 ? answer_with(request, &out, sizeof(out)) : FORWARD;
}

static enum verdict tell_space(const struct request *request)
{
    struct fuse_statfs_out out = {0};
    return layers_space(&out.st) == 0 ? answer_with(request, &out, sizeof(out)) : FORWARD;
}

/* A descriptor (O_PATH) of a plain node; -1 if Python has to answer. */
static int open_plain(uint64_t number)
{
    struct place place;
    if (!nodes_find_place(number, 0, &place))
        return nodes_open_upper(number, O_PATH);
    int fd = layers_name(&place.source, place.name);
    nodes_leave_place(&place);
    return fd;
}

/*
 * The first time that a lower file is opened, the kernel gets its content before it asks for it.
 * Answers how many bytes of it are in SCRATCH now.
 */
static size_t read_first(uint64_t number, int fd, struct scratch *scratch)
{
    pthread_mutex_lock(&table_lock);
    const struct node *node = table_find(number);
    size_t size = node == NULL || node->stored ? 0 : node->attributes.size;
    pthread_mutex_unlock(&table_lock);
    ssize_t got = size == 0 || size > STORED_MOST ? 0 : pread(fd, scratch->memory, size, 0);
    return got < 0 ? 0 : (size_t)got;
}

/* A descriptor, opened with FLAGS, of what lower file NUMBER is copied up to; -1 as copyup_file. */
static int open_copy(uint64_t number, int flags)
{
    int copy = copyup_file(number, flags & O_TRUNC ? 0 : -1);
    if (copy < 0)
        return -1;
    int fd = nodes_open_upper(number, flags);
    close(copy);
    return fd;
}

static enum verdict open_file(const struct request *request, struct scratch *scratch)
{
    const struct fuse_open_in *in = BODY(request, struct fuse_open_in);
    uint64_t number = request->header->nodeid;
    if (in == NULL)
        return answer(request, EINVAL);
    bool reads = (in->flags & O_ACCMODE) == O_RDONLY && !(in->flags & O_TRUNC);
    int flags = (int)in->flags & ~NOT_PASSED_ON;
    /* What a truncation takes from the mode depends on who asks: that is Python's. */
    if (in->flags & O_TRUNC && request->header->uid != 0)
        return FORWARD;
    int fd = reads ? nodes_open_lower(number) : -1;
    bool upper = fd < 0;
    if (upper)
        fd = nodes_open_upper(number, flags);
    if (fd < 0 && !reads)
        fd = open_copy(number, flags);
    if (fd < 0)
        return FORWARD;
    struct open_reply reply = {.fh = (uint64_t)fd, .open_flags = FOPEN_KEEP_CACHE};
    size_t content = upper ? 0 : read_first(number, fd, scratch);
    pthread_mutex_lock(&table_lock);
    struct node *node = table_find(number);
    /* Python may have adopted it meanwhile. */
    bool plain = node != NULL && !node->is_directory && node->upper == upper
                 && handles_open(fd, number, upper) == 0;
    if (plain) {
        handles_opened(number, in->flags, &reply);
        /* Under the lock, since nobody can change a file that is not adopted. */
        if (content > 0 && !node->stored && !(reply.open_flags & FOPEN_PASSTHROUGH))
            notify_store(number, scratch->memory, content);
        node->stored = true; /* never while somebody waits for a page of it */
    }
    pthread_mutex_unlock(&table_lock);
    if (!plain) {
        close(fd);
        return FORWARD;
    }
    /* If Python has adopted it in between, it is Python that closes it. */
    if (!reply_data(request->header->unique, &reply, sizeof(reply)) && handles_closed((uint64_t)fd))
        close(fd);
    if (!upper)
        ahead_opened(number);
    return ANSWERED;
}

/* The target of a link that was told, in SCRATCH. Answers its bytes, -1 if it is not there. */
static ssize_t copy_target(const struct place *place, struct scratch *scratch)
{
    size_t size = place->text == NULL ? 0 : strlen(place->text);
    if (size == 0 || size > scratch->size)
        return -1;
    memcpy(scratch->memory, place->text, size);
    return (ssize_t)size;
}

static enum verdict read_link(const struct request *request, struct scratch *scratch)
{
    struct place place;
    ssize_t size = -1;
    uint64_t number = request->header->nodeid;
    bool below = nodes_find_place(number, S_IFLNK, &place);
    if (below && place.told) {
        size = copy_target(&place, scratch);
    } else {
        int fd = below ? layers_name(&place.source, place.name) : nodes_open_upper(number, O_PATH);
        if (fd >= 0) {
            size = readlinkat(fd, "", scratch->memory, scratch->size);
            close(fd);
        }
    }
    if (below)
        nodes_leave_place(&place);
    return size < 0 ? FORWARD : answer_with(request, scratch->memory, (size_t)size);
}

/* Extended attributes that mean to Python what they mean to the layer. */
static bool is_plain_attribute(const char *name)
{
    static const char *const prefixes[] = {"user.overlay.", "user.fuseoverlayfs.",
                                           "user.unionmount.", "trusted.overlay.", "system."};
    for (size_t at = 0; at < sizeof(prefixes) / sizeof(prefixes[0]); at++)
        if (strncmp(name, prefixes[at], strlen(prefixes[at])) == 0)
            return false;
    return true;
}

static bool is_acl(const char *name)
{
    return strcmp(name, "system.posix_acl_access") == 0
           || strcmp(name, "system.posix_acl_default") == 0;
}

static enum verdict get_attribute(const struct request *request, struct scratch *scratch)
{
    const struct fuse_getxattr_in *in = BODY(request, struct fuse_getxattr_in);
    char path[sizeof("/proc/self/fd/") + 3 * sizeof(int)];
    if (in == NULL)
        return answer(request, EINVAL);
    const char *name = (const char *)(in + 1);
    size_t room = request->size - sizeof(*in);
    if (strnlen(name, room) == room || in->size > scratch->size)
        return answer(request, EINVAL);
    if (!is_acl(name) && !is_plain_attribute(name))
        return FORWARD;
    if (nodes_is_bare(request->header->nodeid))
        return answer(request, ENODATA);
    int fd = open_plain(request->header->nodeid);
    if (fd < 0)
        return FORWARD;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    ssize_t size = getxattr(path, name, scratch->memory, in->size);
    int error = errno;
    close(fd);
    if (size < 0)
        /* To the kernel, which asks for ACLs to check permissions, only this means none. */
        return answer(request, error == EOPNOTSUPP && is_acl(name) ? ENODATA : error);
    if (in->size != 0)
        return answer_with(request, scratch->memory, (size_t)size);
    struct fuse_getxattr_out out = {.size = (uint32_t)size};
    return answer_with(request, &out, sizeof(out));
}

/* Listings */

/* Where the next entry of a listing goes. */
struct listing {
    char *at;
    size_t left;
};

static struct fuse_direntplus *next_entry(struct listing *listing, const char *name, size_t length,
                                          uint64_t number, uint64_t cookie, uint8_t type)
{
    size_t plain = FUSE_NAME_OFFSET_DIRENTPLUS + length;
    size_t size = FUSE_DIRENT_ALIGN(plain);
    if (size > listing->left)
        return NULL;
    struct fuse_direntplus *entry = (struct fuse_direntplus *)listing->at;
    memset(entry, 0, FUSE_NAME_OFFSET_DIRENTPLUS);
    entry->dirent =
        (struct fuse_dirent){.ino = number, .off = cookie, .namelen = length, .type = type};
    memcpy(listing->at + FUSE_NAME_OFFSET_DIRENTPLUS, name, length);
    memset(listing->at + plain, 0, size - plain);
    listing->at += size;
    listing->left -= size;
    return entry;
}

/* What became of a child in a listing. */
enum listed { LISTED, NO_ROOM, UNKNOWN };

/* Add CHILD to the listing. FDS as for nodes_look. */
static enum listed list_child(struct listing *listing, struct child *child, int *fds)
{
    struct fuse_attr attributes;
    struct node *node = nodes_look(child, fds, &attributes);
    uint64_t number = node != NULL ? node->number : child->number;
    if (child->gone)
        return LISTED;
    /* One that Python can't look up is left out, and does not hide the rest. */
    if (number == 0)
        return child->kind == ASK && !child->asked ? UNKNOWN : LISTED;
    struct fuse_direntplus *entry = next_entry(listing, child->name, child->length, number,
                                               child->cookie, child->type);
    if (entry == NULL)
        return NO_ROOM;
    if (node != NULL) {
        node->references++;
        entry->entry_out = names_entry(node, &attributes);
    }
    return LISTED;
}

/* Answers UNKNOWN if the first name there would be is one that Python has to tell of. */
static enum listed list_children(struct directory *directory, uint64_t offset,
                                 struct listing *listing, int *fds)
{
    const struct node *node = directory->node;
    const char *start = listing->at;
    enum listed listed = LISTED;
    if (offset < 1 && next_entry(listing, ".", 1, node->number, 1, DT_DIR) == NULL)
        return NO_ROOM;
    if (offset < 2 && next_entry(listing, "..", 2, node->above, 2, DT_DIR) == NULL)
        return NO_ROOM;
    /* The array may move, and grow, whenever the lock is given up. */
    for (size_t at = table_seek(directory, offset); listed == LISTED && at < directory->count; at++)
        if (!directory->children[at]->gone)
            listed = list_child(listing, directory->children[at], fds);
    return listed == UNKNOWN && listing->at != start ? NO_ROOM : listed;
}

static enum verdict list_directory(const struct request *request, struct scratch *scratch)
{
    const struct fuse_read_in *in = BODY(request, struct fuse_read_in);
    if (in == NULL || in->size > scratch->size)
        return answer(request, EINVAL);
    if (in->offset > PYTHON_POSITIONS
        || (in->offset == 0 && !tree_knows(request->header->nodeid)))
        return FORWARD;
    pthread_mutex_lock(&table_lock);
    struct directory *directory = tree_directory(request->header->nodeid);
    struct listing listing = {scratch->memory, in->size};
    enum listed listed = UNKNOWN;
    if (directory != NULL) {
        int fds[TREE_DESCRIPTORS(directory)];
        directory->busy++;
        table_take(directory, fds);
        listed = list_children(directory, in->offset, &listing, fds);
        table_give(directory, fds);
        table_rest(directory);
    }
    pthread_mutex_unlock(&table_lock);
    if (listed == UNKNOWN)
        return FORWARD;
    answer_with(request, scratch->memory, in->size - listing.left);
    if (listing.left == in->size)
        ahead_listed(request->header->nodeid);
    return ANSWERED;
}

/* References */

/* The kernel gives up COUNT references; answers whether they were counted here. */
static bool forget(uint64_t number, uint64_t count)
{
    struct node *node = table_find(number);
    if (node == NULL)
        return false;
    node->references -= count < node->references ? count : node->references;
    if (node->references == 0 && number != FUSE_ROOT_ID)
        table_drop(node);
    return true;
}

bool names_forget(uint64_t number, uint64_t count)
{
    pthread_mutex_lock(&table_lock);
    bool known = forget(number, count);
    pthread_mutex_unlock(&table_lock);
    return known;
}

static enum verdict forget_one(const struct request *request)
{
    const struct fuse_forget_in *in = BODY(request, struct fuse_forget_in);
    return in == NULL || names_forget(request->header->nodeid, in->nlookup) ? ANSWERED : FORWARD;
}

/* What is left in the request is for Python. */
static enum verdict forget_many(struct request *request)
{
    const struct fuse_batch_forget_in *in = BODY(request, struct fuse_batch_forget_in);
    if (in == NULL || in->count > (request->size - sizeof(*in)) / sizeof(struct fuse_forget_one))
        return ANSWERED;
    uint32_t left = 0;
    struct fuse_forget_one *items = (struct fuse_forget_one *)(in + 1);
    pthread_mutex_lock(&table_lock);
    for (uint32_t at = 0; at < in->count; at++)
        if (!forget(items[at].nodeid, items[at].nlookup))
            items[left++] = items[at];
    pthread_mutex_unlock(&table_lock);
    if (left == 0)
        return ANSWERED;
    ((struct fuse_batch_forget_in *)in)->count = left;
    request->size = sizeof(*in) + left * sizeof(*items);
    ((struct fuse_in_header *)request->header)->len =
        (uint32_t)(sizeof(*request->header) + request->size);
    return FORWARD;
}

enum verdict names_handle(struct request *request, struct scratch *scratch)
{
    switch (request->header->opcode) {
    case FUSE_LOOKUP:
        return lookup(request);
    case FUSE_FORGET:
        return forget_one(request);
    case FUSE_BATCH_FORGET:
        return forget_many(request);
    case FUSE_GETATTR:
        return get_attributes(request);
    case FUSE_STATFS:
        return tell_space(request);
    case FUSE_OPEN:
        return open_file(request, scratch);
    case FUSE_READLINK:
        return read_link(request, scratch);
    case FUSE_GETXATTR:
        return get_attribute(request, scratch);
    case FUSE_FLUSH:
        return answer(request, ENOSYS); /* there is nothing to, so it does not ask again */
    case FUSE_OPENDIR:
        /* Nothing has to be known of who reads: so the kernel opens by itself, and keeps listings. */
        return answer(request, ENOSYS);
    case FUSE_READDIRPLUS:
        return list_directory(request, scratch);
    default:
        return FORWARD;
    }
}
