/*
 * Changes in the upper: making, removing and renaming what only the upper has, and its attributes.
 * Whatever needs a whiteout, a copy-up or a mark is left to Python.
 */
#ifndef UNIONFS_CHANGES_H
#define UNIONFS_CHANGES_H

#include "plane.h"

/* Whether fsync(2) does anything: not on a volatile mount. */
void changes_configure(bool sync);

/* Prepare the calling thread: it takes on the identity of those who ask. */
void changes_begin(void);

enum verdict changes_handle(const struct request *request);

#endif
