/*
 * Changes in the upper: making, removing and renaming, and attributes. What has more than one name,
 * or merges, is left to Python.
 */
#ifndef UNIONFS_CHANGES_H
#define UNIONFS_CHANGES_H

#include "plane.h"
#include "table.h"

/* Whether fsync(2) does anything: not on a volatile mount. */
void changes_configure(bool sync);

/* Prepare the calling thread: it takes on the identity of those who ask. */
void changes_begin(void);

/* Python is to know of NAME in DIRECTORY, that it is there now, or is not. Under the table's lock. */
void changes_note(const struct directory *directory, const char *name, size_t length, bool present);

enum verdict changes_handle(const struct request *request);

#endif
