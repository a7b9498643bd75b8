#define _GNU_SOURCE
#include <limits.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "table.h"

pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t table_settled = PTHREAD_COND_INITIALIZER;

int table_descriptors_most(void)
{
    static atomic_int most;
    struct rlimit limit;
    if (most == 0) {
        bool known = getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < INT_MAX;
        most = known ? (int)limit.rlim_cur : INT_MAX;
    }
    return most;
}

_Atomic size_t table_upper_fds;

void table_set_upper_fd(struct directory *directory, int fd)
{
    directory->upper_fd = fd;
    if (fd >= 0)
        table_upper_fds++;
}

/* Both tables double when they are full. */
struct nodes {
    struct node **buckets;
    size_t size, used;
};
struct names {
    struct child **buckets;
    size_t size, used;
};

static struct nodes nodes;
static struct names names;

static size_t mix(uint64_t value)
{
    value ^= value >> 32;
    value *= 0x9e3779b97f4a7c15u;
    return (size_t)(value ^ value >> 29);
}

static size_t hash_name(const struct directory *directory, const char *name, size_t length)
{
    uint64_t hash = (uint64_t)(uintptr_t)directory;
    for (size_t at = 0; at < length; at++)
        hash = (hash ^ (unsigned char)name[at]) * 0x100000001b3u;
    return mix(hash);
}

static bool grow_nodes(void)
{
    size_t size = nodes.size ? nodes.size * 2 : 1024;
    struct node **buckets = calloc(size, sizeof(*buckets));
    if (buckets == NULL)
        return nodes.size != 0;
    for (size_t old = 0; old < nodes.size; old++) {
        while (nodes.buckets[old] != NULL) {
            struct node *node = nodes.buckets[old];
            nodes.buckets[old] = node->next;
            struct node **bucket = &buckets[mix(node->number) % size];
            node->next = *bucket;
            *bucket = node;
        }
    }
    free(nodes.buckets);
    nodes.buckets = buckets;
    nodes.size = size;
    return true;
}

static bool grow_names(void)
{
    size_t size = names.size ? names.size * 2 : 4096;
    struct child **buckets = calloc(size, sizeof(*buckets));
    if (buckets == NULL)
        return names.size != 0;
    for (size_t old = 0; old < names.size; old++) {
        while (names.buckets[old] != NULL) {
            struct child *child = names.buckets[old];
            names.buckets[old] = child->next;
            size_t hash = hash_name(child->directory, child->name, child->length);
            struct child **bucket = &buckets[hash % size];
            child->next = *bucket;
            *bucket = child;
        }
    }
    free(names.buckets);
    names.buckets = buckets;
    names.size = size;
    return true;
}

struct node *table_find(uint64_t number)
{
    if (nodes.size == 0)
        return NULL;
    struct node *node = nodes.buckets[mix(number) % nodes.size];
    while (node != NULL && node->number != number)
        node = node->next;
    return node;
}

struct node *table_add(uint64_t number)
{
    if (nodes.used >= nodes.size && !grow_nodes())
        return NULL;
    struct node *node = calloc(1, sizeof(*node));
    if (node == NULL)
        return NULL;
    struct node **bucket = &nodes.buckets[mix(number) % nodes.size];
    node->number = number;
    node->fd = -1;
    node->next = *bucket;
    *bucket = node;
    nodes.used++;
    return node;
}

static void take_out(struct node *node)
{
    struct node **slot = &nodes.buckets[mix(node->number) % nodes.size];
    while (*slot != node)
        slot = &(*slot)->next;
    *slot = node->next;
    nodes.used--;
}

/*
 * Directories whose sources are at hand, the oldest where the next one comes. They have an eighth of
 * all descriptors at most.
 */
enum { KEPT_MOST = 512 };
static struct directory *kept[KEPT_MOST];
static size_t kept_next;
static int kept_fds;

static void close_sources(struct directory *directory)
{
    for (size_t at = 0; at < directory->source_count; at++) {
        if (directory->sources[at].fd >= 0) {
            close(directory->sources[at].fd);
            kept_fds--;
        }
        directory->sources[at].fd = -1;
    }
    if (directory->keeping > 0)
        kept[directory->keeping - 1] = NULL;
    directory->keeping = 0;
}

/* The sources of DIRECTORY stay at hand from now on, and those that did for longest no more. */
static void keep_sources(struct directory *directory)
{
    if (directory->keeping == 0) {
        if (kept[kept_next] != NULL)
            close_sources(kept[kept_next]);
        kept[kept_next] = directory;
        directory->keeping = kept_next + 1;
        kept_next = (kept_next + 1) % KEPT_MOST;
    }
    for (size_t at = 0; at < KEPT_MOST && kept_fds > table_descriptors_most() / 8; at++) {
        struct directory *oldest = kept[(kept_next + at) % KEPT_MOST];
        if (oldest != NULL)
            close_sources(oldest);
    }
}

void table_take(struct directory *directory, int *fds)
{
    for (size_t at = 0; at < directory->source_count; at++) {
        fds[at] = directory->sources[at].fd;
        directory->sources[at].fd = -1;
        if (fds[at] >= 0)
            kept_fds--;
    }
}

void table_give(struct directory *directory, const int *fds)
{
    for (size_t at = 0; at < directory->source_count; at++) {
        if (fds[at] < 0)
            continue;
        if (directory->sources[at].fd < 0) {
            directory->sources[at].fd = fds[at];
            kept_fds++;
        } else {
            close(fds[at]);
        }
    }
    if (directory->source_count > 0)
        keep_sources(directory);
}

static void free_child(struct child *child)
{
    free(child->further);
    free(child);
}

static void free_directory(struct directory *directory)
{
    for (size_t at = 0; at < directory->count; at++) {
        struct child *child = directory->children[at];
        if (!child->gone)
            table_remove_child(child);
    }
    for (size_t at = 0; at < directory->count; at++)
        free_child(directory->children[at]);
    close_sources(directory);
    for (size_t at = 0; at < directory->source_count; at++) {
        free(directory->sources[at].path);
        told_free(directory->sources[at].told);
    }
    if (directory->upper_fd >= 0) {
        close(directory->upper_fd);
        table_upper_fds--;
    }
    free(directory->children);
    free(directory);
}

void table_drop(struct node *node)
{
    struct directory *directory = node->directory;
    if (node->child != NULL)
        node->child->node = NULL;
    take_out(node);
    if (directory != NULL) {
        directory->node = NULL;
        if (directory->busy == 0)
            free_directory(directory);
    }
    if (node->pinned)
        table_unpin(node->number);
    if (node->fd >= 0)
        close(node->fd);
    free(node);
}

struct child *table_child(const struct directory *directory, const char *name, size_t length)
{
    if (names.size == 0)
        return NULL;
    struct child *child = names.buckets[hash_name(directory, name, length) % names.size];
    while (child != NULL
           && !(child->directory == directory && child->length == length
                && memcmp(child->name, name, length) == 0))
        child = child->next;
    return child;
}

static bool make_room(struct directory *directory)
{
    if (names.used >= names.size && !grow_names())
        return false;
    if (directory->count < directory->room)
        return true;
    size_t room = directory->room ? directory->room * 2 : 16;
    struct child **larger = realloc(directory->children, room * sizeof(*larger));
    if (larger == NULL)
        return false;
    directory->children = larger;
    directory->room = room;
    return true;
}

/* Put CHILD, which has a name, last into DIRECTORY, which has room. */
static void put_in(struct child *child, struct directory *directory)
{
    child->directory = directory;
    child->cookie = ++directory->last_cookie;
    directory->children[directory->count++] = child;
    struct child **bucket =
        &names.buckets[hash_name(directory, child->name, child->length) % names.size];
    child->next = *bucket;
    *bucket = child;
    names.used++;
}

size_t table_seek(const struct directory *directory, uint64_t cookie)
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

struct child *table_add_child(struct directory *directory, const char *name, size_t length)
{
    struct child *child = make_room(directory) ? calloc(1, sizeof(*child) + length + 1) : NULL;
    if (child == NULL)
        return NULL;
    child->length = (uint8_t)length;
    memcpy(child->name, name, length);
    put_in(child, directory);
    return child;
}

/* Take CHILD out of the table of names. */
static void unname(struct child *child)
{
    struct child **slot =
        &names.buckets[hash_name(child->directory, child->name, child->length) % names.size];
    while (*slot != child)
        slot = &(*slot)->next;
    *slot = child->next;
    names.used--;
}

bool table_absorb(struct directory *directory, struct directory *from)
{
    size_t left = 0;
    bool good = true;
    for (size_t at = 0; at < from->count; at++) {
        struct child *child = from->children[at];
        bool lacks = !child->gone && table_child(directory, child->name, child->length) == NULL;
        good = good && (!lacks || make_room(directory));
        if (good && lacks) {
            unname(child);
            put_in(child, directory);
        } else {
            from->children[left++] = child;
        }
    }
    from->count = left;
    return good;
}

/* Let those that are gone go for good, once they are the most of all. */
static void compact(struct directory *directory)
{
    if (directory->busy > 0 || directory->gone <= directory->count / 2)
        return;
    size_t kept = 0;
    for (size_t at = 0; at < directory->count; at++) {
        struct child *child = directory->children[at];
        if (child->gone)
            free_child(child);
        else
            directory->children[kept++] = child;
    }
    directory->count = kept;
    directory->gone = 0;
}

void table_remove_child(struct child *child)
{
    struct directory *directory = child->directory;
    unname(child);
    child->gone = 1;
    directory->gone++;
    struct node *node = child->node;
    if (node != NULL) {
        child->node = NULL;
        node->child = NULL;
        node->changing = node->pinned;
        if (node->references == 0)
            table_drop(node);
    }
    if (directory->node != NULL)
        compact(directory);
}

struct child *table_move_child(struct child *child, struct directory *directory, const char *name,
                               size_t length)
{
    struct child *moved = table_add_child(directory, name, length);
    if (moved == NULL)
        return NULL;
    moved->number = child->number;
    moved->kind = child->kind;
    moved->type = child->type;
    moved->source = child->source;
    moved->fresh = child->fresh;
    moved->copied = child->copied;
    moved->node = child->node;
    child->node = NULL;
    if (moved->node != NULL)
        moved->node->child = moved;
    table_remove_child(child);
    return moved;
}

void table_rest(struct directory *directory)
{
    if (--directory->busy > 0)
        return;
    if (directory->node == NULL)
        free_directory(directory);
    else
        compact(directory);
}
