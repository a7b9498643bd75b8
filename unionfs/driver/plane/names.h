/*
 * The tree as the plane answers for it: names, attributes, listings and opening of what lies in
 * lower layers only. What is anything but plain is left to Python.
 */
#ifndef UNIONFS_NAMES_H
#define UNIONFS_NAMES_H

#include "layers.h"
#include "plane.h"

/*
 * Requests on names and nodes. SCRATCH is the thread's.
 */
enum verdict names_handle(struct request *request, struct scratch *scratch);

/* What Python says */

/* A name in a directory that only Python can tell of. */
struct question {
    const char *name;
    size_t length;
    int layer;
    uint8_t type;
};

/*
 * From now on the plane knows all names in directory NUMBER, which is in directory ABOVE, to which
 * the kernel has REFERENCES, and which consists of SOURCES (topmost first; they become the plane's,
 * also when this fails). Answers 0, or -1 with errno: EEXIST if it did already.
 * ASKED gets each name that Python has to names_put, as long as the table does not change.
 */
int names_fill(uint64_t number, uint64_t above, uint64_t references, struct source *sources,
               size_t count, void (*ask)(const struct question *question, void *data), void *data);

/*
 * Directory PARENT, if it is known here, has NAME, which is NUMBER and of TYPE (DT_*).
 * ATTRIBUTES are those of a directory, if they stay as they are; NULL otherwise. The kernel has
 * REFERENCES to it. Answers whether these are counted here from now on, and Python has a pin.
 */
bool names_put(uint64_t parent, const char *name, size_t length, uint64_t number, uint8_t type,
               const struct fuse_attr *attributes, uint64_t references);

/* Directory PARENT, if it is known here, has NAME no more. */
void names_remove(uint64_t parent, const char *name, size_t length);

/* Only Python knows the attributes of directory NUMBER from now on. */
void names_changing(uint64_t number);

/* One more reference to NUMBER of the kernel; answers whether it is counted here. */
bool names_refer(uint64_t number);

/*
 * Where plain node NUMBER is: the directory, and a name of *LENGTH to be freed. NULL if nothing
 * plain has that number.
 */
char *names_where(uint64_t number, uint64_t *parent, size_t *length);

/*
 * Plain node NUMBER is Python's from now on. Answers the kernel's references to it, 0 if there is
 * none. GIVEN gets each descriptor that is open for it, which is Python's as well.
 */
uint64_t names_adopt(uint64_t number, void (*give)(int fd, void *data), void *data);

#endif
