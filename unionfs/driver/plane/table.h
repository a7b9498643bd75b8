/*
 * What the plane knows of the union's tree: nodes by number, and the names in directories.
 *
 * Nothing here does I/O. All of it is guarded by one lock, which the callers hold.
 *
 * A plain node lies in lower layers only and has nothing unusual about it, nor a second name. It is
 * known to the plane alone until Python adopts it, to change it. What is no directory is forgotten
 * here then. A directory is known to both from then on, and pinned: Python has one reference, which
 * is given back (FORGET) when the plane drops it.
 * The kernel's references to any node that is known here are counted here.
 */
#ifndef UNIONFS_TABLE_H
#define UNIONFS_TABLE_H

#include <pthread.h>
#include <sys/types.h>

#include "told.h"

extern pthread_mutex_t table_lock;

/* Told whenever a child is not claimed any more. */
extern pthread_cond_t table_settled;

enum child_kind {
    ASK,    /* Python answers for it, if it is no directory that is known */
    HIDDEN, /* a layer above hides it; only while a directory is filled */
    PLAIN,  /* of lower layers; its node may not be known yet */
};

struct directory;
struct node;

/* Where a name is that the upper has: no index of a source. */
#define IN_UPPER UINT16_MAX

/* A name in a directory. */
struct child {
    struct child *next; /* in the same bucket */
    struct directory *directory;
    struct node *node;
    uint64_t cookie;    /* where a reader of the directory is after it */
    uint64_t number;    /* 0 if not known */
    uint8_t kind;
    uint8_t type;       /* DT_* of readdir(3) */
    uint8_t gone;       /* it is not there any more, and stays for readers to find their place */
    uint8_t closed;     /* a directory that merges with nothing further down */
    uint8_t below;      /* the upper has it, and layers below have something, too */
    uint8_t copied;     /* it was copied up here, and has marks that tell of it */
    uint8_t fresh;      /* it was made here, so that no mark can be on it */
    uint8_t asked;      /* Python was, for it */
    uint8_t claimed;    /* it is being removed or moved */
    uint8_t length;
    uint16_t source;    /* which of the directory's sources has it */
    uint16_t more;      /* how many further ones a directory merges with */
    uint16_t *further;  /* which they are */
    char name[];
};

/* A directory of one layer. */
struct source {
    int layer;  /* position */
    int fd;     /* O_PATH, -1 if it is not at hand or somebody has taken it */
    char *path; /* below the layer's root, "." for the root itself */
    struct told *told; /* all its names, if Python has told them; then there is no other way to them */
};

/* The names in a directory. */
struct directory {
    struct node *node;
    struct child **children; /* by cookie, ascending */
    size_t count, room, gone;
    uint64_t last_cookie;
    unsigned busy;  /* threads that use it without the lock */
    unsigned asked; /* how many names were asked for while it was partial */
    bool partial;   /* those names alone are known */
    bool left;       /* to Python: there was no memory for a name, or it has a rule for each */
    bool upper;      /* the upper has it */
    bool impure;     /* it has the mark */
    bool listed;     /* to its end, by somebody */
    size_t ahead;    /* where the next child is that may be read ahead */
    uint64_t next_file; /* cookie of the file that is expected to be opened */
    int upper_fd;    /* O_PATH, -1 if it is not at hand */
    size_t keeping;  /* one more than its place among those whose sources are at hand; 0 for none */
    size_t source_count;
    struct source sources[];
};

struct node {
    struct node *next; /* in the same bucket */
    uint64_t number;
    uint64_t inode;      /* the number that its inode in the upper would have; not of directories */
    uint64_t references; /* of the kernel */
    uint64_t above;      /* number of the directory that a directory is in */
    struct child *child; /* its name; NULL for the root, and once it was removed */
    struct directory *directory;
    struct fuse_attr attributes;
    bool is_directory;
    bool pinned;   /* a directory that Python knows as well */
    bool changing; /* only Python knows the attributes */
    bool upper;    /* the upper has it, so that the attributes are asked for there */
    bool stored;   /* the kernel was given the content, or may ask for it */
    int fd;        /* O_PATH, of what has no name any more; else -1 */
    int layer;     /* which that is in */
};

/* How many descriptors there may be. */
int table_descriptors_most(void);

/* How many directories have a descriptor in the upper. */
extern _Atomic size_t table_upper_fds;

/* DIRECTORY, which has none, gets FD as its descriptor in the upper; -1 for none. */
void table_set_upper_fd(struct directory *directory, int fd);

/* Descriptors of the sources of DIRECTORY, those at hand or -1, which the caller has from now on. */
void table_take(struct directory *directory, int *fds);

/* Give them back: to stay at hand for a while, or to be closed. */
void table_give(struct directory *directory, const int *fds);

struct node *table_find(uint64_t number);

/* A new node, or NULL without memory. Its number is not known yet. */
struct node *table_add(uint64_t number);

/* Forget NODE, and the names in it; those below it that nobody refers to go with it. */
void table_drop(struct node *node);

struct child *table_child(const struct directory *directory, const char *name, size_t length);

/* Where the first child after COOKIE is among those of DIRECTORY. */
size_t table_seek(const struct directory *directory, uint64_t cookie);

/* A new name, which is not there, or NULL without memory. */
struct child *table_add_child(struct directory *directory, const char *name, size_t length);

void table_remove_child(struct child *child);

/*
 * CHILD, no directory of lower layers, becomes NAME in DIRECTORY, which does not have that. Answers
 * what it is then, NULL without memory.
 */
struct child *table_move_child(struct child *child, struct directory *directory, const char *name,
                               size_t length);

/* DIRECTORY gets the names of FROM, which no node has, that it lacks. False without memory. */
bool table_absorb(struct directory *directory, struct directory *from);

/* Give up one use of DIRECTORY without the lock. */
void table_rest(struct directory *directory);

/* Called for each pinned directory that is dropped: Python gets its reference back. */
void table_unpin(uint64_t number);

#endif
