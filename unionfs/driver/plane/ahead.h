/*
 * Reading ahead. Who walks through a tree lists one directory after the other, and has something else
 * to do in between: the next one is read meanwhile.
 */
#ifndef UNIONFS_AHEAD_H
#define UNIONFS_AHEAD_H

#include <stdint.h>

/* Directory NUMBER was listed, to its end. Called without the lock. */
void ahead_listed(uint64_t number);

/* Lower file NUMBER was opened. Called without the lock. */
void ahead_opened(uint64_t number);

/* Read what is expected to be asked for next, if there is anything. Called without the lock. */
void ahead_read(void);

#endif
