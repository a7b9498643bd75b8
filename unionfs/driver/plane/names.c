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

#include "names.h"

/* Seconds: the tree changes only through the mount. As unionfs/driver/caching.py has it. */
enum { FOREVER = 10 * 365 * 24 * 3600 };

/* Bytes of a file that are given to the kernel with the reply that opens it. */
enum { STORED_MOST = 1 << 17 };

static enum verdict answer(const struct request *request, int error)
{
    reply_error(request->header->unique, error);
    return ANSWERED;
}

static enum verdict answer_with(const struct request *request, const void *data, size_t size)
{
    reply_data(request->header->unique, data, size);
    return ANSWERED;
}

static struct fuse_entry_out entry_of(const struct node *node)
{
    return (struct fuse_entry_out){.nodeid = node->number,
                                   .entry_valid = FOREVER,
                                   .attr_valid = FOREVER,
                                   .attr = node->attributes};
}

/* Directories that are known */

static struct directory *directory_of(uint64_t number)
{
    struct node *node = table_find(number);
    return node == NULL ? NULL : node->directory;
}

/* A name that a layer above has as well: what merges with it, and what ends that. */
static bool add_further(struct child *child, size_t source, uint8_t type)
{
    if (child->type != DT_DIR || child->closed)
        return true;
    if (type == DT_WHT && child->source == source && child->more == 0)
        child->kind = ASK; /* a directory, and a whiteout of its name, in one layer */
    if (type != DT_DIR) {
        child->closed = 1;
        return true;
    }
    uint16_t *larger = realloc(child->further, (child->more + 1u) * sizeof(*larger));
    if (larger == NULL)
        return false;
    larger[child->more++] = (uint16_t)source;
    child->further = larger;
    return true;
}

static bool add_found(struct directory *directory, size_t source, const struct found *found)
{
    if (found->length > NAME_MAX)
        return false;
    struct child *child = table_child(directory, found->name, found->length);
    if (child != NULL)
        return add_further(child, source, found->type);
    child = table_add_child(directory, found->name, found->length);
    if (child == NULL)
        return false;
    child->source = (uint16_t)source;
    child->type = found->type;
    child->kind = found->type == DT_WHT ? HIDDEN : found->type == DT_UNKNOWN ? ASK : PLAIN;
    return true;
}

static void drop_hidden(struct directory *directory)
{
    for (size_t at = 0; at < directory->count; at++)
        if (directory->children[at]->kind == HIDDEN && !directory->children[at]->gone)
            table_remove_child(directory->children[at]);
}

static void ask_for_names(const struct directory *directory,
                          void (*ask)(const struct question *question, void *data), void *data)
{
    for (size_t at = 0; at < directory->count; at++) {
        const struct child *child = directory->children[at];
        if (child->gone || child->kind == PLAIN)
            continue;
        struct question question = {child->name, child->length,
                                    directory->sources[child->source].layer, child->type};
        ask(&question, data);
    }
}

static struct directory *new_directory(struct source *sources, size_t count)
{
    struct directory *directory = calloc(1, sizeof(*directory) + count * sizeof(*sources));
    if (directory == NULL) {
        for (size_t at = 0; at < count; at++)
            free(sources[at].path);
        return NULL;
    }
    directory->source_count = count;
    memcpy(directory->sources, sources, count * sizeof(*sources));
    directory->busy = 1; /* nobody else knows it yet */
    directory->last_cookie = 2; /* after "." and ".." */
    return directory;
}

/* Read all sources into DIRECTORY, topmost first. Answers 0, or -1 with errno. */
static int read_sources(struct directory *directory)
{
    for (size_t at = 0; at < directory->source_count; at++) {
        size_t count;
        struct found *found = layers_list(&directory->sources[at], &count);
        if (found == NULL)
            return -1;
        bool good = true;
        pthread_mutex_lock(&table_lock);
        for (size_t name = 0; good && name < count; name++)
            good = add_found(directory, at, &found[name]);
        pthread_mutex_unlock(&table_lock);
        layers_free(found, count);
        if (!good) {
            errno = ENOMEM;
            return -1;
        }
    }
    return 0;
}

/*
 * Let NODE, or the new one NUMBER, have DIRECTORY. Answers 0, or an errno. Under the lock.
 */
static int install(struct directory *directory, uint64_t number, struct node **node)
{
    *node = table_find(number);
    if (*node == NULL) {
        *node = table_add(number);
        if (*node == NULL)
            return ENOMEM;
        (*node)->is_directory = true;
        (*node)->changing = true;
    } else if ((*node)->directory != NULL) {
        return EEXIST;
    }
    drop_hidden(directory);
    directory->node = *node;
    (*node)->directory = directory;
    return 0;
}

int names_fill(uint64_t number, uint64_t above, uint64_t references, struct source *sources,
               size_t count, void (*ask)(const struct question *question, void *data), void *data)
{
    struct node *node;
    struct directory *directory = new_directory(sources, count);
    if (directory == NULL) {
        errno = ENOMEM;
        return -1;
    }
    int error = read_sources(directory) == 0 ? 0 : errno;
    pthread_mutex_lock(&table_lock);
    if (error == 0)
        error = install(directory, number, &node);
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
    errno = error;
    return error == 0 ? 0 : -1;
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
               const struct fuse_attr *attributes, uint64_t references)
{
    bool taken = false;
    pthread_mutex_lock(&table_lock);
    struct directory *directory = directory_of(parent);
    if (directory == NULL || length > NAME_MAX)
        goto unlock;
    struct child *child = table_child(directory, name, length);
    if (child == NULL)
        child = table_add_child(directory, name, length);
    if (child == NULL) {
        directory->incomplete = true;
        goto unlock;
    }
    child->type = type;
    child->number = number;
    child->kind = ASK;
    struct node *node = type == DT_DIR ? table_find(number) : NULL;
    if (node == NULL && type == DT_DIR) {
        node = table_add(number);
        if (node != NULL) {
            *node = (struct node){.next = node->next, .number = number, .references = references,
                                  .is_directory = true, .pinned = true, .changing = true};
            taken = true;
        }
    }
    join(child, node);
    if (node != NULL) {
        node->above = parent;
        if (attributes != NULL) {
            node->attributes = *attributes;
            node->changing = false;
        }
    }
unlock:
    pthread_mutex_unlock(&table_lock);
    return taken;
}

void names_remove(uint64_t parent, const char *name, size_t length)
{
    pthread_mutex_lock(&table_lock);
    struct directory *directory = directory_of(parent);
    struct child *child = directory == NULL ? NULL : table_child(directory, name, length);
    if (child != NULL)
        table_remove_child(child);
    pthread_mutex_unlock(&table_lock);
}

void names_changing(uint64_t number)
{
    pthread_mutex_lock(&table_lock);
    struct node *node = table_find(number);
    if (node != NULL)
        node->changing = true;
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

char *names_where(uint64_t number, uint64_t *parent, size_t *length)
{
    char *name = NULL;
    pthread_mutex_lock(&table_lock);
    struct node *node = table_find(number);
    if (node != NULL && !node->pinned && node->child != NULL) {
        *parent = node->child->directory->node->number;
        *length = node->child->length;
        name = strndup(node->child->name, *length);
    }
    pthread_mutex_unlock(&table_lock);
    return name;
}

uint64_t names_adopt(uint64_t number, void (*give)(int fd, void *data), void *data)
{
    uint64_t references = 0;
    pthread_mutex_lock(&table_lock);
    struct node *node = table_find(number);
    if (node == NULL || node->pinned)
        goto unlock;
    if (node->child != NULL) {
        node->child->kind = ASK;
        node->child->number = number;
    }
    if (node->is_directory) {
        node->pinned = true;
        references = 1;
    } else {
        references = node->references;
        handles_give(number, give, data);
        table_drop(node);
    }
unlock:
    pthread_mutex_unlock(&table_lock);
    return references;
}

/* Plain nodes */

/* The descriptor of a source, from FDS if it is there. */
static int source_fd(const struct directory *directory, size_t source, int *fds)
{
    if (fds[source] < 0)
        fds[source] = layers_directory(&directory->sources[source]);
    return fds[source];
}

static void close_sources(const struct directory *directory, const int *fds)
{
    for (size_t at = 0; at < directory->source_count; at++)
        if (fds[at] >= 0)
            close(fds[at]);
}

/* Whether what a directory merges is what layers have under one name, without further rules. */
static bool merges_plainly(const struct child *child, int *fds)
{
    const struct directory *directory = child->directory;
    for (size_t at = 0; at <= child->more; at++) {
        size_t source = at == 0 ? child->source : child->further[at - 1];
        int fd = source_fd(directory, source, fds);
        if (fd < 0 || layers_has_marks(&directory->sources[source], fd, child->name))
            return false;
    }
    return true;
}

/* What plain_node finds out without the lock; as layers_stat answers it. */
static int examine(const struct child *child, int *fds, uint64_t *number,
                   struct fuse_attr *attributes)
{
    const struct directory *directory = child->directory;
    int fd = source_fd(directory, child->source, fds);
    if (fd < 0)
        return -1;
    int result = layers_stat(&directory->sources[child->source], fd, child->name, child->type,
                             number, attributes);
    if (result != 0 || child->type != DT_DIR)
        return result;
    /* Of one that merges, what programs read as its number of subdirectories is not known. */
    if (child->more > 0)
        attributes->nlink = 1;
    return merges_plainly(child, fds) ? 0 : 1;
}

/*
 * The node of a plain CHILD, made now if need be; NULL if Python has to answer for it. FDS has the
 * descriptors of the directory's sources, or -1 for those that are not open yet. The lock is given
 * up meanwhile; the directory is busy, so that CHILD stays.
 */
static struct node *plain_node(struct child *child, int *fds)
{
    struct fuse_attr attributes;
    uint64_t number = 0;
    if (child->node != NULL)
        return child->node;
    pthread_mutex_unlock(&table_lock);
    int result = examine(child, fds, &number, &attributes);
    pthread_mutex_lock(&table_lock);
    if (result < 0 || child->gone || child->kind != PLAIN)
        return NULL;
    if (child->node != NULL)
        return child->node;
    struct node *node = result == 0 && table_find(number) == NULL ? table_add(number) : NULL;
    child->number = number;
    if (node == NULL) {
        child->kind = ASK;
        return NULL;
    }
    node->is_directory = child->type == DT_DIR;
    node->attributes = attributes;
    node->above = child->directory->node == NULL ? 0 : child->directory->node->number;
    node->child = child;
    child->node = node;
    return node;
}

/* The node of CHILD, if its attributes are known here. As plain_node. */
static struct node *known_node(struct child *child, int *fds)
{
    struct node *node = child->kind == PLAIN ? plain_node(child, fds) : child->node;
    return node == NULL || node->changing ? NULL : node;
}

/* The sources of the plain directory that CHILD is. NULL without memory. */
static struct source *sources_below(const struct child *child)
{
    struct source *sources = calloc(child->more + 1u, sizeof(*sources));
    if (sources == NULL)
        return NULL;
    for (size_t at = 0; at <= child->more; at++) {
        size_t above = at == 0 ? child->source : child->further[at - 1];
        const struct source *from = &child->directory->sources[above];
        sources[at].layer = from->layer;
        int size = strcmp(from->path, ".") == 0
                       ? asprintf(&sources[at].path, "%s", child->name)
                       : asprintf(&sources[at].path, "%s/%s", from->path, child->name);
        if (size < 0) {
            while (at-- > 0)
                free(sources[at].path);
            free(sources);
            return NULL;
        }
    }
    return sources;
}

/*
 * Whether all names in directory NUMBER are known, or can be. Where not, Python has to answer: it
 * knows the rule, or the error.
 */
static bool is_known(uint64_t number)
{
    struct source *sources = NULL;
    size_t count = 0;
    pthread_mutex_lock(&table_lock);
    struct node *node = table_find(number);
    bool known = node != NULL && node->directory != NULL && !node->directory->incomplete;
    if (!known && node != NULL && node->is_directory && node->directory == NULL && !node->pinned
        && node->child != NULL) {
        sources = sources_below(node->child);
        count = node->child->more + 1u;
    }
    pthread_mutex_unlock(&table_lock);
    if (sources == NULL)
        return known;
    struct directory *directory = new_directory(sources, count);
    free(sources);
    if (directory == NULL)
        return false;
    bool good = read_sources(directory) == 0;
    pthread_mutex_lock(&table_lock);
    node = table_find(number);
    if (node != NULL && node->directory == NULL && !node->pinned && good)
        good = install(directory, number, &node) == 0;
    known = node != NULL && node->directory != NULL;
    table_rest(directory);
    pthread_mutex_unlock(&table_lock);
    return known;
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
    if (length > NAME_MAX || !is_known(request->header->nodeid))
        return FORWARD;
    pthread_mutex_lock(&table_lock);
    struct directory *directory = directory_of(request->header->nodeid);
    struct child *child = directory == NULL ? NULL : table_child(directory, name, length);
    if (child != NULL) {
        int fds[directory->source_count];
        memset(fds, -1, sizeof(fds));
        directory->busy++;
        struct node *node = known_node(child, fds);
        if (node != NULL) {
            node->references++;
            entry = entry_of(node);
            verdict = ANSWERED;
        }
        close_sources(directory, fds);
        table_rest(directory);
    } else if (directory != NULL) {
        verdict = ANSWERED;
    }
    pthread_mutex_unlock(&table_lock);
    return verdict == ANSWERED ? answer_with(request, &entry, sizeof(entry)) : FORWARD;
}

static enum verdict get_attributes(const struct request *request)
{
    struct fuse_attr_out out = {.attr_valid = FOREVER};
    pthread_mutex_lock(&table_lock);
    struct node *node = table_find(request->header->nodeid);
    bool known = node != NULL && !node->changing;
    if (known)
        out.attr = node->attributes;
    pthread_mutex_unlock(&table_lock);
    return known ? answer_with(request, &out, sizeof(out)) : FORWARD;
}

/* A plain node's place in its layer: copies, to be used without the lock. */
struct place {
    struct source source;
    char name[NAME_MAX + 1];
};

static bool find_place(uint64_t number, mode_t type, struct place *place)
{
    bool found = false;
    pthread_mutex_lock(&table_lock);
    struct node *node = table_find(number);
    if (node != NULL && !node->pinned && node->child != NULL
        && (type == 0 || (node->attributes.mode & S_IFMT) == type)) {
        const struct child *child = node->child;
        place->source = child->directory->sources[child->source];
        place->source.path = strdup(place->source.path);
        memcpy(place->name, child->name, child->length);
        place->name[child->length] = '\0';
        found = place->source.path != NULL;
    }
    pthread_mutex_unlock(&table_lock);
    return found;
}

/* The first time that a file is opened, the kernel gets its content before it asks for it. */
static void store_content(struct node *node, int fd, struct scratch *scratch)
{
    uint64_t size = node->attributes.size;
    if (node->stored || size == 0 || size > STORED_MOST || size > scratch->size)
        return;
    node->stored = true;
    ssize_t got = pread(fd, scratch->memory, size, 0);
    if (got > 0)
        notify_store(node->number, scratch->memory, (size_t)got);
}

static enum verdict open_file(const struct request *request, struct scratch *scratch)
{
    const struct fuse_open_in *in = BODY(request, struct fuse_open_in);
    uint64_t number = request->header->nodeid;
    struct place place;
    if (in == NULL)
        return answer(request, EINVAL);
    if ((in->flags & O_ACCMODE) != O_RDONLY || in->flags & O_TRUNC
        || !find_place(number, S_IFREG, &place))
        return FORWARD;
    int fd = layers_open(&place.source, place.name, number);
    free(place.source.path);
    if (fd < 0)
        return FORWARD;
    struct open_reply reply = {.fh = (uint64_t)fd, .open_flags = FOPEN_KEEP_CACHE};
    pthread_mutex_lock(&table_lock);
    struct node *node = table_find(number);
    /* Python may have adopted it meanwhile. */
    bool plain = node != NULL && !node->is_directory && handles_open(fd, number) == 0;
    if (plain) {
        handles_opened(number, &reply);
        /* Under the lock, since nobody can change a file that is not adopted. */
        if (!(reply.open_flags & (FOPEN_PASSTHROUGH | FOPEN_DIRECT_IO)))
            store_content(node, fd, scratch);
    }
    pthread_mutex_unlock(&table_lock);
    if (!plain) {
        close(fd);
        return FORWARD;
    }
    /* If Python has adopted it in between, it is Python that closes it. */
    if (!reply_data(request->header->unique, &reply, sizeof(reply)) && handles_closed((uint64_t)fd))
        close(fd);
    return ANSWERED;
}

static enum verdict read_link(const struct request *request, struct scratch *scratch)
{
    struct place place;
    if (!find_place(request->header->nodeid, S_IFLNK, &place))
        return FORWARD;
    int fd = layers_directory(&place.source);
    free(place.source.path);
    ssize_t size = fd < 0 ? -1 : readlinkat(fd, place.name, scratch->memory, scratch->size);
    if (fd >= 0)
        close(fd);
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

static ssize_t read_attribute(const struct place *place, const char *name, char *value, size_t size)
{
    char path[sizeof("/proc/self/fd//") + 3 * sizeof(int) + NAME_MAX];
    int fd = layers_directory(&place->source);
    if (fd < 0)
        return -1;
    snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", fd, place->name);
    ssize_t got = lgetxattr(path, name, value, size);
    int error = errno;
    close(fd);
    errno = error;
    return got;
}

static enum verdict get_attribute(const struct request *request, struct scratch *scratch)
{
    const struct fuse_getxattr_in *in = BODY(request, struct fuse_getxattr_in);
    struct place place;
    if (in == NULL)
        return answer(request, EINVAL);
    const char *name = (const char *)(in + 1);
    size_t room = request->size - sizeof(*in);
    if (strnlen(name, room) == room || in->size > scratch->size)
        return answer(request, EINVAL);
    if (!(is_acl(name) || is_plain_attribute(name))
        || !find_place(request->header->nodeid, 0, &place))
        return FORWARD;
    ssize_t size = read_attribute(&place, name, scratch->memory, in->size);
    int error = errno;
    free(place.source.path);
    if (size < 0)
        /* To the kernel, which asks for ACLs to check permissions, only this means none. */
        return answer(request, error == EOPNOTSUPP && is_acl(name) ? ENODATA : error);
    if (in->size != 0)
        return answer_with(request, scratch->memory, (size_t)size);
    struct fuse_getxattr_out out = {.size = (uint32_t)size};
    return answer_with(request, &out, sizeof(out));
}

/* Listings */

/* A directory that was opened here has its number as the handle. */
static enum verdict open_directory(const struct request *request)
{
    if (!is_known(request->header->nodeid))
        return FORWARD;
    struct open_reply reply = {.fh = request->header->nodeid,
                               .open_flags = FOPEN_CACHE_DIR | FOPEN_KEEP_CACHE};
    return answer_with(request, &reply, sizeof(reply));
}

/* The first child after COOKIE. */
static size_t seek_child(const struct directory *directory, uint64_t cookie)
{
    size_t low = 0, high = directory->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (directory->children[middle]->cookie <= cookie)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

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

/* Add CHILD to the listing; answers whether there was room. FDS as for plain_node. */
static bool list_child(struct listing *listing, struct child *child, int *fds)
{
    struct node *node = known_node(child, fds);
    uint64_t number = node != NULL ? node->number : child->number;
    /* Without a number it has gone, or can't be looked up, which does not hide the rest. */
    if (child->gone || number == 0)
        return true;
    struct fuse_direntplus *entry = next_entry(listing, child->name, child->length, number,
                                               child->cookie, child->type);
    if (entry == NULL)
        return false;
    if (node != NULL) {
        node->references++;
        entry->entry_out = entry_of(node);
    }
    return true;
}

static void list_children(struct directory *directory, uint64_t offset, struct listing *listing,
                          int *fds)
{
    const struct node *node = directory->node;
    bool room = true;
    if (offset < 1)
        room = next_entry(listing, ".", 1, node->number, 1, DT_DIR) != NULL;
    if (offset < 2 && room)
        room = next_entry(listing, "..", 2, node->above, 2, DT_DIR) != NULL;
    /* The array may move, and grow, whenever the lock is given up. */
    for (size_t at = seek_child(directory, offset); room && at < directory->count; at++)
        if (!directory->children[at]->gone)
            room = list_child(listing, directory->children[at], fds);
}

static enum verdict list_directory(const struct request *request, struct scratch *scratch)
{
    const struct fuse_read_in *in = BODY(request, struct fuse_read_in);
    if (in == NULL || in->size > scratch->size)
        return answer(request, EINVAL);
    if (in->fh != request->header->nodeid)
        return FORWARD;
    pthread_mutex_lock(&table_lock);
    struct directory *directory = directory_of(in->fh);
    int fds[directory == NULL ? 1 : directory->source_count];
    struct listing listing = {scratch->memory, in->size};
    if (directory != NULL) {
        memset(fds, -1, sizeof(fds));
        directory->busy++;
        list_children(directory, in->offset, &listing, fds);
        close_sources(directory, fds);
        table_rest(directory);
    }
    pthread_mutex_unlock(&table_lock);
    if (directory == NULL)
        return answer(request, EIO);
    return answer_with(request, scratch->memory, in->size - listing.left);
}

static enum verdict release_directory(const struct request *request)
{
    const struct fuse_release_in *in = BODY(request, struct fuse_release_in);
    return in != NULL && in->fh == request->header->nodeid ? answer(request, 0) : FORWARD;
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

static enum verdict forget_one(const struct request *request)
{
    const struct fuse_forget_in *in = BODY(request, struct fuse_forget_in);
    pthread_mutex_lock(&table_lock);
    bool known = in != NULL && forget(request->header->nodeid, in->nlookup);
    pthread_mutex_unlock(&table_lock);
    return known ? ANSWERED : FORWARD;
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
    case FUSE_OPEN:
        return open_file(request, scratch);
    case FUSE_READLINK:
        return read_link(request, scratch);
    case FUSE_GETXATTR:
        return get_attribute(request, scratch);
    case FUSE_OPENDIR:
        return open_directory(request);
    case FUSE_READDIRPLUS:
        return list_directory(request, scratch);
    case FUSE_RELEASEDIR:
        return release_directory(request);
    default:
        return FORWARD;
    }
}
