/*
 * Copy-up of what has nothing unusual about it, and whiteouts. unionfs/copyup.py and
 * unionfs/workdir.py have the rules, and do the rest.
 */
#ifndef UNIONFS_COPYUP_H
#define UNIONFS_COPYUP_H

#include "nodes.h"

/* How a file's content is kept from reaching the disk after its name. As unionfs/ordering.py has it. */
enum ordering { UNORDERED, WRITTEN, SYNCED };

/*
 * From now on copies and whiteouts are made in directory SCRATCH, a descriptor that stays the
 * caller's. PREFIX begins the names of marks, and stays where it is.
 */
void copyup_configure(int scratch, const char *prefix, enum ordering ordering);

/* Whether that was called. */
bool copyup_possible(void);

/*
 * Bring plain file NUMBER of a lower layer, with the first SIZE bytes of its content (-1: all), to
 * the upper. Answers a descriptor of the copy, which may be written; -1 if Python has to do it.
 * Called without the lock.
 */
int copyup_file(uint64_t number, off_t size);

/*
 * Copies that take long are made only by a thread that said that it has the time. Whether one was
 * left since this was asked before, for it has not.
 */
void copyup_take_time(void);
bool copyup_was_long(void);

/*
 * Put a whiteout in the place of NAME in the upper's directory ABOVE. PRESENT: the upper has the
 * name. Answers false if Python has to do it.
 */
bool copyup_hide(int above, const char *name, bool present);

/*
 * Before an entry with an inode number from below comes into DIRECTORY. Answers whether it may. Under
 * copyup_names_lock.
 */
bool copyup_announce(struct directory *directory, int above);

/*
 * Held while the upper's names change, so that the times which a copy-up puts back are not those from
 * before another change.
 */
extern pthread_mutex_t copyup_names_lock;

#endif
