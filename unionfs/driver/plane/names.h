/*
 * The tree as the plane answers for it: names, attributes, listings and opening of plain nodes.
 * What is anything but plain is left to Python.
 */
#ifndef UNIONFS_NAMES_H
#define UNIONFS_NAMES_H

#include <limits.h>

#include "nodes.h"
#include "plane.h"

/* Seconds: the tree changes only through the mount. As unionfs/driver/caching.py has it. */
enum { FOREVER = 10 * 365 * 24 * 3600 };

/*
 * Positions in listings of Python's come after this one. As unionfs/filesystem.py has it. So whoever
 * is reading goes on as it began.
 */
enum { PYTHON_POSITIONS = 1 << 30 };

/* The reply that gives NODE to the kernel. */
struct fuse_entry_out names_entry(const struct node *node, const struct fuse_attr *attributes);

/* Requests that change nothing, on names and nodes. SCRATCH is the thread's. */
enum verdict names_handle(struct request *request, struct scratch *scratch);

/* What Python says */

/* A name in a directory that only Python can tell of. */
struct question {
    const char *name;
    size_t length;
    int layer;
};

/* What gets a question. */
typedef void names_asker(const struct question *question, void *data);

/*
 * From now on the plane knows all names in directory NUMBER, which is in directory ABOVE, to which
 * the kernel has REFERENCES, and which consists of SOURCES (topmost first) below UPPER_FD, its
 * descriptor in the upper (-1 if it is not there). Sources and descriptor become the plane's, also
 * when this fails. Answers 0, or an errno: EEXIST if it did already.
 * ASK gets each name that Python has to names_put.
 */
int names_fill(uint64_t number, uint64_t above, uint64_t references, struct source *sources,
               size_t count, int upper_fd, names_asker *ask, void *data);

/* ASK gets each name in directory NUMBER whose number is not known, once. */
void names_unknown(uint64_t number, names_asker *ask, void *data);

/*
 * Directory PARENT, if it is known here, has NAME, which is NUMBER and of TYPE (DT_*). The kernel has
 * REFERENCES to it; answers whether they are counted here from now on, and Python has a pin.
 */
bool names_put(uint64_t parent, const char *name, size_t length, uint64_t number, uint8_t type,
               uint64_t references);

/* Directory NUMBER, if it is known here, has ATTRIBUTES that stay as they are. */
void names_describe(uint64_t number, const struct fuse_attr *attributes);

/* Directory PARENT, if it is known here, has NAME no more. */
void names_remove(uint64_t parent, const char *name, size_t length);

/*
 * Directory NUMBER is in the upper from now on, and UPPER_FD, which becomes the plane's, is its
 * descriptor there.
 */
void names_raised(uint64_t number, int upper_fd);

/* Whatever is asked of a name in directory NUMBER, if it is known here, is Python's to answer. */
void names_leave(uint64_t number);

/* One more reference to NUMBER of the kernel; answers whether it is counted here. */
bool names_refer(uint64_t number);

/* Whether the names in directory NUMBER were told of. */
bool names_filled(uint64_t number);

/* Whether there is a name in directory NUMBER; -1 if that is not known. */
int names_any(uint64_t number);

/* The number of the plain node called NAME in directory PARENT, if it is known; else 0. */
uint64_t names_number(uint64_t parent, const char *name, size_t length);

/* Where a plain node is, and what is known of it. */
struct whereabouts {
    uint64_t parent;
    size_t length;
    char name[NAME_MAX + 1];
    struct fuse_attr attributes;
    size_t count;
    int *layers; /* the positions of those that have it, topmost first; to be freed */
};

/* Answers whether NUMBER is a plain node that has a name. */
bool names_where(uint64_t number, struct whereabouts *found);

/* The kernel gives up COUNT references to NUMBER; answers whether they are counted here. */
bool names_forget(uint64_t number, uint64_t count);

/*
 * Plain node NUMBER is Python's from now on. Answers the kernel's references to it, 0 if there is
 * none. TAKE gets each descriptor that is open for it, which is Python's as well. *FD is one (O_PATH)
 * for a node of layer *LAYER that has no name any more, and Python's to close; -1 for others.
 */
uint64_t names_adopt(uint64_t number, handles_taker *take, void *data, int *fd, int *layer);

/* What names there are in a directory that Python knows has changed. */
struct change {
    struct change *next;
    uint64_t parent;
    bool present;
    size_t length;
    char name[];
};

/* The changes since this was called before, the first one first, to be freed. */
struct change *names_changes(void);

#endif
