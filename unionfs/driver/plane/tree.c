#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "plane.h"
#include "tree.h"

struct directory *tree_directory(uint64_t number)
{
    struct node *node = table_find(number);
    return node == NULL || node->directory == NULL || node->directory->partial ? NULL
                                                                               : node->directory;
}

/* Descriptors */

/* Whether another directory of the upper may keep a descriptor: a quarter leaves the rest to files. */
static bool may_keep_another(void)
{
    static rlim_t most;
    struct rlimit limit;
    if (most == 0)
        most = getrlimit(RLIMIT_NOFILE, &limit) == 0 ? limit.rlim_cur / 4 : 64;
    return table_upper_fds < most;
}

int tree_upper(struct directory *directory)
{
    if (!directory->upper || directory->upper_fd >= 0)
        return directory->upper_fd;
    const struct child *child = directory->node == NULL ? NULL : directory->node->child;
    int above = child == NULL ? -1 : tree_upper(child->directory);
    if (above >= 0 && may_keep_another())
        table_set_upper_fd(directory, openat(above, child->name,
                                             O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    return directory->upper_fd;
}

static int source_fd(const struct directory *directory, size_t source, int *fds)
{
    if (source == IN_UPPER)
        return fds[directory->source_count];
    if (fds[source] < 0)
        fds[source] = layers_directory(&directory->sources[source]);
    return fds[source];
}

int tree_layer(const struct directory *directory, size_t source)
{
    return source == IN_UPPER ? layers_upper() : directory->sources[source].layer;
}

/* Reading directories */

/* A name that a layer above has as well: what merges with it, and what ends that. */
static bool add_further(struct child *child, size_t source, uint8_t type)
{
    if (child->closed)
        return true;
    if (type == DT_WHT) {
        if (child->type == DT_DIR && child->source == source && child->more == 0)
            child->kind = ASK; /* a directory, and a whiteout of its name, in one layer */
        child->closed = 1;
        return true;
    }
    if (child->source == IN_UPPER)
        child->below = 1;
    if (child->type != DT_DIR || type != DT_DIR) {
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
        return true; /* nobody can look it up */
    struct child *child = table_child(directory, found->name, found->length);
    if (child != NULL)
        return add_further(child, source, found->type);
    child = table_add_child(directory, found->name, found->length);
    if (child == NULL)
        return false;
    child->source = (uint16_t)source;
    child->type = found->type;
    child->kind = found->type == DT_WHT ? HIDDEN : found->type == DT_UNKNOWN ? ASK : PLAIN;
    child->closed = found->type == DT_WHT;
    return true;
}

static void drop_hidden(struct directory *directory)
{
    for (size_t at = 0; at < directory->count; at++)
        if (directory->children[at]->kind == HIDDEN && !directory->children[at]->gone)
            table_remove_child(directory->children[at]);
}

void tree_free_sources(struct source *sources, size_t count)
{
    for (size_t at = 0; at < count; at++) {
        free(sources[at].path);
        told_free(sources[at].told);
    }
    free(sources);
}

/* A directory that nobody knows yet. Takes SOURCES and UPPER_FD, also if it fails. */
static struct directory *new_directory(struct source *sources, size_t count, int upper_fd)
{
    struct directory *directory = calloc(1, sizeof(*directory) + count * sizeof(*sources));
    if (directory == NULL) {
        tree_free_sources(sources, count);
        if (upper_fd >= 0)
            close(upper_fd);
        return NULL;
    }
    directory->source_count = count;
    memcpy(directory->sources, sources, count * sizeof(*sources));
    free(sources);
    directory->upper = upper_fd >= 0;
    table_set_upper_fd(directory, upper_fd);
    directory->busy = 1;
    directory->last_cookie = 2; /* after "." and ".." */
    return directory;
}

static bool add_told(struct directory *directory, size_t source)
{
    const struct told *told = directory->sources[source].told;
    bool good = true;
    pthread_mutex_lock(&table_lock);
    for (size_t at = 0; good && at < told->count; at++) {
        const struct told_name *name = &told->names[at];
        struct found found = {name->name, strlen(name->name), name->type};
        good = add_found(directory, source, &found);
    }
    pthread_mutex_unlock(&table_lock);
    return good;
}

/* Answers 0, or an errno. */
static int read_source(struct directory *directory, size_t source, int fd)
{
    size_t count;
    struct found *found = layers_list(tree_layer(directory, source), fd, &count);
    if (found == NULL)
        return errno;
    bool good = true;
    pthread_mutex_lock(&table_lock);
    for (size_t name = 0; good && name < count; name++)
        good = add_found(directory, source, &found[name]);
    pthread_mutex_unlock(&table_lock);
    layers_free(found, count);
    return good ? 0 : ENOMEM;
}

/* Read all that DIRECTORY consists of, topmost first. Answers 0, or an errno. */
static int read_sources(struct directory *directory)
{
    int error = 0;
    if (directory->upper)
        error = read_source(directory, IN_UPPER, directory->upper_fd);
    for (size_t at = 0; error == 0 && at < directory->source_count; at++) {
        if (directory->sources[at].told != NULL) {
            error = add_told(directory, at) ? 0 : ENOMEM;
            continue;
        }
        int fd = layers_directory(&directory->sources[at]);
        if (fd < 0)
            return errno;
        error = read_source(directory, at, fd);
        close(fd);
    }
    return error;
}

struct directory *tree_read(struct source *sources, size_t count, int upper_fd)
{
    struct directory *directory = new_directory(sources, count, upper_fd);
    if (directory == NULL) {
        errno = ENOMEM;
        return NULL;
    }
    int error = read_sources(directory);
    if (error == 0)
        return directory;
    pthread_mutex_lock(&table_lock);
    table_rest(directory);
    pthread_mutex_unlock(&table_lock);
    errno = error;
    return NULL;
}

int tree_install(struct directory *directory, uint64_t number, struct node **node)
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
    if (directory->upper) {
        (*node)->upper = true;
        (*node)->changing = false;
    }
    return 0;
}

/* DIRECTORY, of which some names are known, has all those that WHOLE has read. */
static void complete(struct directory *directory, struct directory *whole)
{
    drop_hidden(whole);
    directory->partial = !table_absorb(directory, whole);
}

/* The sources of the plain directory that CHILD is. NULL without memory. */
static struct source *sources_below(const struct child *child, size_t *count)
{
    bool upper = child->source == IN_UPPER;
    *count = child->more + (upper ? 0u : 1u);
    struct source *sources = calloc(*count + 1, sizeof(*sources));
    if (sources == NULL)
        return NULL;
    for (size_t at = 0; at < *count; at++) {
        size_t above = upper ? child->further[at] : at == 0 ? child->source : child->further[at - 1];
        const struct source *from = &child->directory->sources[above];
        sources[at].layer = from->layer;
        sources[at].fd = -1;
        int size = strcmp(from->path, ".") == 0
                       ? asprintf(&sources[at].path, "%s", child->name)
                       : asprintf(&sources[at].path, "%s/%s", from->path, child->name);
        if (size < 0) {
            tree_free_sources(sources, at);
            return NULL;
        }
    }
    return sources;
}

/* Whether all that the directory CHILD consists of can be read. */
static bool is_readable(const struct child *child)
{
    for (size_t at = 0; at <= child->more; at++)
        if (layers_told(tree_layer(child->directory,
                                   at == 0 ? child->source : child->further[at - 1])))
            return false;
    return true;
}

/* Whether NODE is a plain directory whose names are not all known, but can be read. */
static bool is_unread(const struct node *node)
{
    return node->is_directory && (node->directory == NULL || node->directory->partial)
           && !node->pinned && node->child != NULL && is_readable(node->child);
}

/* The directory, yet to be read, that plain NODE is; NULL if that can't be said. */
static struct directory *directory_to_read(const struct node *node)
{
    const struct child *child = node->child;
    if (!is_unread(node))
        return NULL;
    bool upper = child->source == IN_UPPER;
    int fd = -1;
    if (upper) {
        int above = tree_upper(child->directory);
        if (above >= 0 && may_keep_another())
            fd = openat(above, child->name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
            return NULL;
    }
    size_t count;
    struct source *sources = sources_below(child, &count);
    if (sources == NULL) {
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    return new_directory(sources, count, fd);
}

bool tree_knows(uint64_t number)
{
    pthread_mutex_lock(&table_lock);
    struct node *node = table_find(number);
    bool known = tree_directory(number) != NULL && !node->directory->left;
    struct directory *directory = node == NULL ? NULL : directory_to_read(node);
    pthread_mutex_unlock(&table_lock);
    if (directory == NULL)
        return known;
    int error = read_sources(directory);
    pthread_mutex_lock(&table_lock);
    node = table_find(number);
    if (error == 0 && node != NULL && is_unread(node)) {
        if (node->directory == NULL)
            tree_install(directory, number, &node);
        else
            complete(node->directory, directory);
    }
    known = tree_directory(number) != NULL;
    table_rest(directory);
    pthread_mutex_unlock(&table_lock);
    return known;
}

/* Names that are asked for one by one; from then on it pays to read them all. */
enum { ASKED_MOST = 8 };

struct directory *tree_asked(uint64_t number)
{
    struct node *node = table_find(number);
    if (node == NULL)
        return NULL;
    struct directory *directory = node->directory;
    if (directory == NULL && is_unread(node) && node->child->source != IN_UPPER) {
        directory = directory_to_read(node);
        if (directory == NULL)
            return NULL;
        directory->partial = true;
        tree_install(directory, number, &node);
        directory->busy = 0;
    }
    if (directory == NULL || directory->left
        || (directory->partial && directory->asked++ >= ASKED_MOST))
        return NULL;
    directory->busy++;
    return directory;
}

/* What the sources of a directory have under one name: each DT_*, DT_WHT, or NOTHING. */
struct answers {
    uint8_t type;
    bool hidden; /* there is a whiteout of it beside it */
};

/* Answers whether all sources could be asked. Called without the lock. */
static bool ask_sources(const struct directory *directory, const char *name, int *fds,
                        struct answers *answers)
{
    bool closed = false;
    for (size_t at = 0; at < directory->source_count; at++) {
        struct answers *answer = &answers[at];
        *answer = (struct answers){LAYERS_NOTHING, false};
        if (closed)
            continue;
        int layer = directory->sources[at].layer;
        int fd = source_fd(directory, at, fds);
        if (fd < 0 || layers_type(fd, name, &answer->type) != 0)
            return false;
        closed = answer->type != LAYERS_NOTHING && answer->type != DT_DIR;
        /* Of what closes, or has nothing below, it would not matter. */
        if (answer->type == DT_DIR || (!closed && at + 1 < directory->source_count))
            answer->hidden = layers_hides(layer, fd, name);
        closed = closed || answer->hidden;
    }
    return true;
}

bool tree_ask(struct directory *directory, const char *name, size_t length, int *fds)
{
    struct answers answers[directory->source_count + 1];
    pthread_mutex_unlock(&table_lock);
    /* Such names are marks in some layers: the whole tells. */
    bool good = strncmp(name, ".wh.", 4) != 0 && ask_sources(directory, name, fds, answers);
    pthread_mutex_lock(&table_lock);
    /* Somebody else may have asked for it, or read the directory, meanwhile. */
    if (!good || !directory->partial || table_child(directory, name, length) != NULL)
        return good;
    for (size_t at = 0; good && at < directory->source_count; at++) {
        struct found found = {(char *)name, length, answers[at].type};
        if (found.type != LAYERS_NOTHING)
            good = add_found(directory, at, &found);
        found.type = DT_WHT;
        if (good && answers[at].hidden)
            good = add_found(directory, at, &found);
    }
    struct child *child = table_child(directory, name, length);
    if (child != NULL && (!good || child->kind == HIDDEN))
        table_remove_child(child);
    return good;
}

/* Plain nodes */

/* What was told of CHILD in the SOURCE of its directory that has it; NULL if that was read. */
static struct told_name *told_child(const struct child *child, size_t source)
{
    struct told *told = source == IN_UPPER ? NULL : child->directory->sources[source].told;
    return told == NULL ? NULL : told_find(told, child->name);
}

bool tree_find_place(uint64_t number, mode_t type, struct place *place)
{
    bool found = false;
    pthread_mutex_lock(&table_lock);
    struct node *node = table_find(number);
    if (node != NULL && !node->pinned && !node->upper && node->child != NULL
        && (type == 0 || (node->attributes.mode & S_IFMT) == type)) {
        const struct child *child = node->child;
        *place = (struct place){.source = child->directory->sources[child->source]};
        place->source.path = strdup(place->source.path);
        memcpy(place->name, child->name, child->length);
        const struct told_name *told = told_child(child, child->source);
        if (told != NULL) {
            place->told = true;
            place->bare = told->bare;
            place->attributes = told->attributes;
            place->text = told->text == NULL ? NULL : strdup(told->text);
        }
        found = place->source.path != NULL;
    }
    pthread_mutex_unlock(&table_lock);
    return found;
}

void tree_leave_place(struct place *place)
{
    free(place->source.path);
    free(place->text);
}

int tree_open_place(const struct place *place, uint64_t number)
{
    if (!place->told)
        return layers_open(&place->source, place->name, number);
    if (place->text == NULL)
        return -1;
    return layers_content(place->source.layer, place->text, place->attributes.size);
}

/* What was told of plain node NUMBER of a lower layer. Under the lock. */
static struct told_name *told_node(uint64_t number)
{
    const struct node *node = table_find(number);
    if (node == NULL || node->pinned || node->upper || node->child == NULL)
        return NULL;
    return told_child(node->child, node->child->source);
}

bool tree_is_bare(uint64_t number)
{
    pthread_mutex_lock(&table_lock);
    const struct told_name *told = told_node(number);
    bool bare = told != NULL && told->bare;
    pthread_mutex_unlock(&table_lock);
    return bare;
}

size_t tree_untrusted(uint64_t number, uint64_t size, char **names, size_t most)
{
    size_t count = 0;
    pthread_mutex_lock(&table_lock);
    const struct told_name *found = told_node(number);
    if (found != NULL) {
        const struct child *child = table_find(number)->child;
        const struct told *told = child->directory->sources[child->source].told;
        const struct told_name *end = told->names + told->count;
        for (const struct told_name *next = found + 1; next < end && count < most; next++)
            if (next->type == DT_REG && next->text == NULL && next->attributes.size <= size) {
                names[count] = strdup(next->name);
                if (names[count] == NULL)
                    break;
                count++;
            }
    }
    pthread_mutex_unlock(&table_lock);
    return count;
}

bool tree_is_trusted(uint64_t number)
{
    pthread_mutex_lock(&table_lock);
    const struct told_name *told = told_node(number);
    bool trusted = told == NULL || told->type != DT_REG || told->text != NULL;
    pthread_mutex_unlock(&table_lock);
    return trusted;
}

bool tree_trust(uint64_t parent, const char *name, const char *path)
{
    bool trusted = false;
    pthread_mutex_lock(&table_lock);
    const struct directory *directory = tree_directory(parent);
    const struct child *child =
        directory == NULL ? NULL : table_child(directory, name, strlen(name));
    struct told_name *told = child == NULL ? NULL : told_child(child, child->source);
    if (told != NULL && told->type == DT_REG && told->text == NULL) {
        told->text = strdup(path);
        trusted = told->text != NULL;
    }
    pthread_mutex_unlock(&table_lock);
    return trusted;
}

bool tree_claim(struct child *child, struct claim *claim)
{
    *claim = (struct claim){child, child->directory, tree_upper(child->directory)};
    if (claim->above < 0)
        return false;
    child->claimed = 1;
    child->directory->busy++;
    return true;
}

void tree_settle(struct claim *claim)
{
    claim->child->claimed = 0;
    table_rest(claim->directory);
    pthread_cond_broadcast(&table_settled);
}

/* As layers_stat, of CHILD in the SOURCE of its directory. */
static int stat_source(const struct child *child, size_t source, int *fds, uint64_t *number,
                       struct fuse_attr *attributes)
{
    const struct directory *directory = child->directory;
    int layer = tree_layer(directory, source);
    const struct told_name *told = told_child(child, source);
    if (told != NULL) {
        *number = layers_number(layer, told->attributes.ino);
        *attributes = told->attributes;
        attributes->ino = *number;
        return *number == 0 || !told->plain;
    }
    int fd = source_fd(directory, source, fds);
    return fd < 0 ? 1 : layers_stat(layer, fd, child->name, child->type, number, attributes);
}

/* Whether what CHILD consists of is what layers have under one name, without further rules. */
static bool is_unmarked(const struct child *child, int *fds)
{
    const struct directory *directory = child->directory;
    bool is_directory = child->type == DT_DIR;
    if (!is_directory && child->source != IN_UPPER)
        return true; /* what matters is looked at when it is opened */
    for (size_t at = 0; at <= child->more && !child->fresh; at++) {
        size_t source = at == 0 ? child->source : child->further[at - 1];
        const struct told_name *told = told_child(child, source);
        if (told != NULL && told->plain)
            continue;
        int fd = source_fd(directory, source, fds);
        if (fd < 0
            || layers_has_marks(tree_layer(directory, source), fd, child->name, is_directory))
            return false;
    }
    return true;
}

/*
 * What there is to know of a plain CHILD: its number, and its attributes as they are now. Answers 0;
 * 1 if it is nothing plain; -1 with errno. Called without the lock.
 */
static int examine(const struct child *child, int *fds, uint64_t *number,
                   struct fuse_attr *attributes)
{
    struct fuse_attr ignored;
    int result = stat_source(child, child->source, fds, number, attributes);
    /* It may be noted in a mark, or that of another name that was copied up (the index). */
    if (result == 1 && layers_upper() >= 0)
        *number = 0;
    if (result == 0 && !is_unmarked(child, fds)) {
        *number = 0;
        return 1;
    }
    if (result != 0 || child->more == 0)
        return result;
    /* Of a directory that merges, what programs read as its number of directories is not known. */
    attributes->nlink = 1;
    if (child->source != IN_UPPER)
        return 0;
    /* The number is that of the topmost below. */
    result = stat_source(child, child->further[0], fds, number, &ignored);
    attributes->ino = *number;
    return result;
}

static struct node *add_plain(struct child *child, uint64_t number,
                              const struct fuse_attr *attributes)
{
    struct node *node = table_find(number) == NULL ? table_add(number) : NULL;
    if (node == NULL) {
        child->kind = ASK; /* Python finds another number */
        return NULL;
    }
    child->number = number;
    node->is_directory = child->type == DT_DIR;
    node->upper = child->source == IN_UPPER;
    node->inode = number;
    node->attributes = *attributes;
    node->above = child->directory->node == NULL ? 0 : child->directory->node->number;
    node->child = child;
    child->node = node;
    return node;
}

/* The attributes of the upper are those of NODE, whose name CHILD is or was. */
static void adjust(const struct node *node, const struct child *child,
                   struct fuse_attr *attributes)
{
    attributes->ino = node->number;
    if (node->is_directory
        && (node->directory != NULL ? node->directory->source_count > 0
                                    : child != NULL && child->more > 0))
        attributes->nlink = 1;
}

struct node *tree_look(struct child *child, int *fds, struct fuse_attr *attributes)
{
    struct directory *directory = child->directory;
    struct node *node = child->node;
    uint64_t number = 0;
    if (node == NULL && child->kind != PLAIN)
        return NULL;
    if (node != NULL && node->changing)
        return NULL;
    if (node != NULL && !node->upper) {
        *attributes = node->attributes;
        return node;
    }
    if (node != NULL && node->pinned && node->directory == NULL)
        return NULL; /* whether it merges only Python knows */
    fds[directory->source_count] = tree_upper(directory);
    bool is_new = node == NULL;
    pthread_mutex_unlock(&table_lock);
    int result = is_new ? examine(child, fds, &number, attributes)
                        : layers_stat(layers_upper(), fds[directory->source_count], child->name,
                                      child->type, &number, attributes);
    pthread_mutex_lock(&table_lock);
    if (child->gone || result < 0)
        return NULL;
    node = child->node;
    if (node == NULL && is_new && child->kind == PLAIN) {
        if (result == 0)
            return add_plain(child, number, attributes);
        child->kind = ASK;
        child->number = number;
        return NULL;
    }
    if (node == NULL || result != 0 || node->changing)
        return NULL;
    adjust(node, child, attributes);
    return node;
}

int tree_attributes(uint64_t number, struct fuse_attr *attributes)
{
    uint64_t found;
    int result = -1;
    pthread_mutex_lock(&table_lock);
    struct node *node = table_find(number);
    if (node == NULL || node->changing)
        goto unlock;
    if (!node->upper) {
        *attributes = node->attributes;
        result = 0;
        goto unlock;
    }
    const char *name = "";
    uint8_t type = IFTODT(node->attributes.mode);
    int fd = node->fd;
    struct directory *directory = node->directory;
    if (fd < 0 && directory != NULL) {
        fd = tree_upper(directory);
        type = DT_DIR;
    } else if (fd < 0 && node->child != NULL && !(node->is_directory && node->pinned)) {
        directory = node->child->directory;
        fd = tree_upper(directory);
        name = node->child->name;
        type = node->child->type;
    }
    if (fd < 0)
        goto unlock;
    if (directory != NULL)
        directory->busy++;
    pthread_mutex_unlock(&table_lock);
    /* What was removed has no link left, so that it is not plain any more, but still the same. */
    result = layers_stat(layers_upper(), fd, name, type, &found, attributes) < 0 ? -1 : 0;
    pthread_mutex_lock(&table_lock);
    node = table_find(number);
    if (node == NULL || (!node->is_directory && found != node->inode))
        result = -1;
    if (result == 0)
        adjust(node, node->child, attributes);
    if (directory != NULL)
        table_rest(directory);
unlock:
    pthread_mutex_unlock(&table_lock);
    return result;
}

int tree_open_upper(uint64_t number, int flags)
{
    char path[sizeof("/proc/self/fd/") + 3 * sizeof(int)];
    int fd = -1;
    pthread_mutex_lock(&table_lock);
    struct node *node = table_find(number);
    if (node == NULL || !node->upper || node->pinned)
        goto unlock;
    if (node->fd >= 0) {
        snprintf(path, sizeof(path), "/proc/self/fd/%d", node->fd);
        fd = flags == O_PATH ? fcntl(node->fd, F_DUPFD_CLOEXEC, 0)
                             : open(path, flags | O_CLOEXEC | O_NONBLOCK);
        goto unlock;
    }
    int above = node->child == NULL ? -1 : tree_upper(node->child->directory);
    if (above < 0)
        goto unlock;
    struct directory *directory = node->child->directory;
    const char *name = node->child->name;
    directory->busy++;
    pthread_mutex_unlock(&table_lock);
    fd = openat(above, name, flags | O_NOFOLLOW | O_CLOEXEC | (flags == O_PATH ? 0 : O_NONBLOCK));
    pthread_mutex_lock(&table_lock);
    node = table_find(number);
    /* A directory that merges has its number from below. */
    if (fd >= 0
        && (node == NULL
            || (!node->is_directory && !layers_is(layers_upper(), fd, node->inode)))) {
        close(fd);
        fd = -1;
    }
    table_rest(directory);
unlock:
    pthread_mutex_unlock(&table_lock);
    return fd;
}

struct node *tree_made(struct child *child, struct fuse_attr *attributes)
{
    struct directory *directory = child->directory;
    uint64_t number = 0;
    int fd = tree_upper(directory);
    child->source = IN_UPPER;
    child->kind = PLAIN;
    child->fresh = 1;
    pthread_mutex_unlock(&table_lock);
    int result = layers_stat(layers_upper(), fd, child->name, child->type, &number, attributes);
    pthread_mutex_lock(&table_lock);
    if (result != 0 || child->gone || child->kind != PLAIN)
        return NULL;
    return child->node != NULL ? child->node : add_plain(child, number, attributes);
}
