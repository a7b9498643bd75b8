/*
 * Waiting for requests.
 *
 * Who asks usually asks again as soon as it has its answer; to fall asleep in between, and be woken,
 * costs both sides more than a request does. So one thread leads: it looks again for a while, as long
 * as that has paid lately, and the others stay out of its way, since the kernel would wake them for
 * what the leader gets. They come when requests queue up, or when one takes long.
 */
#ifndef UNIONFS_WAITING_H
#define UNIONFS_WAITING_H

#include <stdbool.h>
#include <sys/types.h>

/* What a thread knows of its waiting: nothing at first. */
struct waiting {
    bool leads;
    unsigned hope;   /* how often looking may be in vain until it is given up */
    unsigned queued; /* requests in a row that were there already */
};

/* Requests come from DEVICE, which does not block, and are at most MOST bytes long. */
void waiting_configure(int device, size_t most);

/* As read(2), of the next request, into BYTES. */
ssize_t waiting_receive(struct waiting *waiting, char *bytes);

/* Let another thread lead. */
void waiting_resign(struct waiting *waiting);

#endif
