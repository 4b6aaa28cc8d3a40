/*
 * Callbacks that do what the plan says, and record what they were given and what came of it.
 *
 * A recorded event: u8 callback, u32 send, i32 result, then three lists, each a u16 count and that
 * many values: arguments, results of the calls, macros.
 */
#ifndef CALLBACKS_H
#define CALLBACKS_H

#include <libmilter/mfapi.h>
#include <pthread.h>

#include "buffer.h"
#include "plan.h"

struct record {
    pthread_mutex_t lock;
    struct buffer events;
    uint32_t count;
};

extern struct record record;

/* Return the description of the filter that the plan stands for.  The plan must stay. */
struct smfiDesc describe_filter(const struct plan *plan);

/* Return the first call in the plan that is unknown, or NULL. */
const char *find_unknown_call(const struct plan *plan);

#endif
