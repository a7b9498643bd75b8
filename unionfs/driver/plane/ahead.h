/*
 * Reading ahead. Who walks through a tree lists one directory after the other, and has something else
 * to do in between: the next one is read meanwhile.
 */
#ifndef UNIONFS_AHEAD_H
#define UNIONFS_AHEAD_H

#include <stdint.h>

/* Directory NUMBER was listed, to its end. Called without the lock. */
void ahead_listed(uint64_t number);

/* Read the directory that is expected to be listed next, if there is one. Called without the lock. */
void ahead_read(void);

#endif
