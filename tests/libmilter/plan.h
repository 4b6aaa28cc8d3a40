/*
 * The plan of a session, as text: what the filter registers, how it reacts, and what it is sent.
 *
 * One statement a line, words parted by one blank; plan.py writes it.
 *
 *     version N               xxfi_version
 *     flags N                 xxfi_flags
 *     maxdatasize N           smfi_setmaxdatasize() before the start
 *     limit N                 milliseconds that the session may take
 *     paced                   a send waits until the one before has been dealt with
 *     macro HEX               a macro to look up in every callback
 *     callback NAME           register it; steps that follow are its own
 *     step RESULT             the next invocation's reaction; calls that follow are its own
 *     further RESULT          the reaction to all invocations that have no step
 *     store ACTIONS OPTIONS   outputs of the negotiate callback
 *     call NAME VALUE...      -: NULL, #N: a number, =HEX: a string (it is followed by a NUL)
 *     send CONNECTION END HEX bytes from the MTA; END is 1 if the MTA's half is closed after them
 */
#ifndef PLAN_H
#define PLAN_H

#include <stdbool.h>
#include <stddef.h>

enum callback {
    ON_NEGOTIATE,
    ON_CONNECT,
    ON_HELO,
    ON_ENVFROM,
    ON_ENVRCPT,
    ON_DATA,
    ON_UNKNOWN,
    ON_HEADER,
    ON_EOH,
    ON_BODY,
    ON_EOM,
    ON_ABORT,
    ON_CLOSE,
    CALLBACKS
};

/* Two for code and extended code, 32 lines, and some more to see them refused. */
#define MAX_ARGUMENTS 42

#define MAX_CONNECTIONS 8

struct argument {
    enum { ARGUMENT_NULL, ARGUMENT_NUMBER, ARGUMENT_BYTES } kind;
    long long number;
    char *bytes;
    size_t length;
};

struct call {
    char *name;
    struct argument *arguments;
    size_t count;
};

struct step {
    struct call *calls;
    size_t count;
    int result;
    bool stores;
    unsigned long outputs[2];
};

struct script {
    bool registered;
    struct step *steps;
    size_t count;
    struct step further;
};

struct send {
    int connection;
    bool end;
    char *data;
    size_t length;
};

struct plan {
    int version;
    unsigned long flags;
    bool sets_max_data_size;
    size_t max_data_size;
    long limit_ms;
    bool paced;
    char **macros;
    size_t macro_count;
    struct script scripts[CALLBACKS];
    struct send *sends;
    size_t send_count;
};

/* Parse the text, cutting it up in place.  What the plan points to is never freed: a process has
 * one plan.  Return NULL, or the line that makes no sense. */
const char *parse_plan(struct plan *plan, char *text);

#endif
