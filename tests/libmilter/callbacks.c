/* Callbacks that follow the plan; see callbacks.h. */
#include "callbacks.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>
#include <time.h>

#include "watch.h"

struct record record = {.lock = PTHREAD_MUTEX_INITIALIZER};

static const struct plan *plan;

/* How often each callback has run, in the process: of all connections together. */
static size_t invocations[CALLBACKS];

/* ------------------------------------------------------------------ calls */

/* The arguments of the call at hand, by the names that the functions below share. */
#define BYTES(i) (call->arguments[i].bytes)
#define NUMBER(i) ((int)call->arguments[i].number)

static void put_version(struct buffer *to) {
    unsigned int major, minor, patch;
    char text[48];
    if (smfi_version(&major, &minor, &patch) != MI_SUCCESS) {
        put_null(to);
        return;
    }
    snprintf(text, sizeof text, "%u.%u.%u", major, minor, patch);
    put_text(to, text);
}

/* 40 lines: what the plan leaves out is NULL, and the first NULL ends the list. */
static int set_multiline_reply(SMFICTX *ctx, const struct call *call) {
    return smfi_setmlreply(
        ctx, BYTES(0), BYTES(1), BYTES(2), BYTES(3), BYTES(4), BYTES(5), BYTES(6), BYTES(7),
        BYTES(8), BYTES(9), BYTES(10), BYTES(11), BYTES(12), BYTES(13), BYTES(14), BYTES(15),
        BYTES(16), BYTES(17), BYTES(18), BYTES(19), BYTES(20), BYTES(21), BYTES(22), BYTES(23),
        BYTES(24), BYTES(25), BYTES(26), BYTES(27), BYTES(28), BYTES(29), BYTES(30), BYTES(31),
        BYTES(32), BYTES(33), BYTES(34), BYTES(35), BYTES(36), BYTES(37), BYTES(38), BYTES(39),
        BYTES(40), BYTES(41), (char *)NULL);
}

static int replace_body(SMFICTX *ctx, const struct call *call) {
    /* A count of its own lets a plan state one that is wrong. */
    int length = call->count > 1 ? NUMBER(1) : (int)call->arguments[0].length;
    return smfi_replacebody(ctx, (unsigned char *)BYTES(0), length);
}

/* Not libmilter's: a callback that takes its time, for tests of this program itself. */
static int sleep_ms(int duration) {
    const struct timespec time = {duration / 1000, duration % 1000 * 1000000L};
    return nanosleep(&time, NULL);
}

enum operation {
    ADD_HEADER,
    ADD_RECIPIENT,
    ADD_RECIPIENT_WITH_PARAMETERS,
    CHANGE_HEADER,
    CHANGE_SENDER,
    DELETE_RECIPIENT,
    GET_MACRO,
    GET_PRIVATE,
    GET_VERSION,
    INSERT_HEADER,
    PROGRESS,
    QUARANTINE,
    REPLACE_BODY,
    SET_MULTILINE_REPLY,
    SET_PRIVATE,
    SET_REPLY,
    SET_SYMBOL_LIST,
    SLEEP,
    OPERATIONS
};

static const char *const operation_names[OPERATIONS] = {
    [ADD_HEADER] = "addheader",
    [ADD_RECIPIENT] = "addrcpt",
    [ADD_RECIPIENT_WITH_PARAMETERS] = "addrcpt_par",
    [CHANGE_HEADER] = "chgheader",
    [CHANGE_SENDER] = "chgfrom",
    [DELETE_RECIPIENT] = "delrcpt",
    [GET_MACRO] = "getsymval",
    [GET_PRIVATE] = "getpriv",
    [GET_VERSION] = "version",
    [INSERT_HEADER] = "insheader",
    [PROGRESS] = "progress",
    [QUARANTINE] = "quarantine",
    [REPLACE_BODY] = "replacebody",
    [SET_MULTILINE_REPLY] = "setmlreply",
    [SET_PRIVATE] = "setpriv",
    [SET_REPLY] = "setreply",
    [SET_SYMBOL_LIST] = "setsymlist",
    [SLEEP] = "sleep",
};

static enum operation find_operation(const char *name) {
    int i = 0;
    while (i < OPERATIONS && strcmp(operation_names[i], name) != 0)
        i++;
    return (enum operation)i;
}

/* Make a call and return its result, for those whose result is a number. */
static long call_for_number(SMFICTX *ctx, enum operation operation, const struct call *call) {
    switch (operation) {
    case ADD_HEADER: return smfi_addheader(ctx, BYTES(0), BYTES(1));
    case ADD_RECIPIENT: return smfi_addrcpt(ctx, BYTES(0));
    case ADD_RECIPIENT_WITH_PARAMETERS: return smfi_addrcpt_par(ctx, BYTES(0), BYTES(1));
    case CHANGE_HEADER: return smfi_chgheader(ctx, BYTES(0), NUMBER(1), BYTES(2));
    case CHANGE_SENDER: return smfi_chgfrom(ctx, BYTES(0), BYTES(1));
    case DELETE_RECIPIENT: return smfi_delrcpt(ctx, BYTES(0));
    case GET_PRIVATE: return (long)(intptr_t)smfi_getpriv(ctx);
    case INSERT_HEADER: return smfi_insheader(ctx, NUMBER(0), BYTES(1), BYTES(2));
    case PROGRESS: return smfi_progress(ctx);
    case QUARANTINE: return smfi_quarantine(ctx, BYTES(0));
    case REPLACE_BODY: return replace_body(ctx, call);
    case SET_MULTILINE_REPLY: return set_multiline_reply(ctx, call);
    case SET_PRIVATE: return smfi_setpriv(ctx, (void *)(intptr_t)NUMBER(0));
    case SET_REPLY: return smfi_setreply(ctx, BYTES(0), BYTES(1), BYTES(2));
    case SET_SYMBOL_LIST: return smfi_setsymlist(ctx, NUMBER(0), BYTES(1));
    case SLEEP: return sleep_ms(NUMBER(0));
    default: return MI_FAILURE;
    }
}

static void make_call(SMFICTX *ctx, const struct call *call, struct buffer *results) {
    enum operation operation = find_operation(call->name);
    if (operation == GET_MACRO)
        put_text(results, smfi_getsymval(ctx, BYTES(0)));
    else if (operation == GET_VERSION)
        put_version(results);
    else
        put_number(results, call_for_number(ctx, operation, call));
}

static const char *find_unknown_in(const struct step *step) {
    for (size_t i = 0; i < step->count; i++)
        if (find_operation(step->calls[i].name) == OPERATIONS)
            return step->calls[i].name;
    return NULL;
}

const char *find_unknown_call(const struct plan *of) {
    for (int i = 0; i < CALLBACKS; i++) {
        const struct script *script = &of->scripts[i];
        const char *found = find_unknown_in(&script->further);
        for (size_t k = 0; k < script->count && found == NULL; k++)
            found = find_unknown_in(&script->steps[k]);
        if (found != NULL)
            return found;
    }
    return NULL;
}

/* ------------------------------------------------------------------ events */

static const struct step *next_step(enum callback callback) {
    const struct script *script = &plan->scripts[callback];
    pthread_mutex_lock(&record.lock);
    size_t invocation = invocations[callback]++;
    pthread_mutex_unlock(&record.lock);
    return invocation < script->count ? &script->steps[invocation] : &script->further;
}

/* Do what the plan has for this invocation; `arguments` are recorded as they are. */
static const struct step *follow_plan(SMFICTX *ctx, enum callback callback, uint16_t count,
                                      const struct buffer *arguments) {
    const struct step *step = next_step(callback);
    struct buffer event = {0};
    put_u8(&event, (uint8_t)callback);
    put_u32(&event, (uint32_t)current_send());
    put_i32(&event, step->result);
    put_u16(&event, count);
    put_raw(&event, arguments->data, arguments->length);

    /* Macros first: calls are to change nothing of what the callback was shown. */
    struct buffer macros = {0};
    for (size_t i = 0; i < plan->macro_count; i++)
        put_text(&macros, smfi_getsymval(ctx, plan->macros[i]));
    put_u16(&event, (uint16_t)step->count);
    for (size_t i = 0; i < step->count; i++)
        make_call(ctx, &step->calls[i], &event);
    put_u16(&event, (uint16_t)plan->macro_count);
    put_raw(&event, macros.data, macros.length);

    pthread_mutex_lock(&record.lock);
    put_raw(&record.events, event.data, event.length);
    record.count++;
    pthread_mutex_unlock(&record.lock);
    return step;
}

static sfsistat follow_without_arguments(SMFICTX *ctx, enum callback callback) {
    struct buffer none = {0};
    return follow_plan(ctx, callback, 0, &none)->result;
}

static sfsistat follow_with_text(SMFICTX *ctx, enum callback callback, const char *text) {
    struct buffer arguments = {0};
    put_text(&arguments, text);
    return follow_plan(ctx, callback, 1, &arguments)->result;
}

static sfsistat follow_with_strings(SMFICTX *ctx, enum callback callback, char **strings) {
    struct buffer arguments = {0};
    uint16_t count = 0;
    for (; strings[count] != NULL; count++)
        put_text(&arguments, strings[count]);
    return follow_plan(ctx, callback, count, &arguments)->result;
}

/* ------------------------------------------------------------------ what libmilter calls */

static void put_address(struct buffer *to, const struct sockaddr *address) {
    char number[INET6_ADDRSTRLEN], text[sizeof(struct sockaddr_un) + INET6_ADDRSTRLEN + 16];
    if (address == NULL) {
        put_null(to);
        return;
    }
    if (address->sa_family == AF_INET) {
        const struct sockaddr_in *inet = (const struct sockaddr_in *)address;
        inet_ntop(AF_INET, &inet->sin_addr, number, sizeof number);
        snprintf(text, sizeof text, "inet:%s:%u", number, ntohs(inet->sin_port));
    } else if (address->sa_family == AF_INET6) {
        const struct sockaddr_in6 *inet = (const struct sockaddr_in6 *)address;
        inet_ntop(AF_INET6, &inet->sin6_addr, number, sizeof number);
        snprintf(text, sizeof text, "inet6:%s:%u", number, ntohs(inet->sin6_port));
    } else if (address->sa_family == AF_UNIX) {
        const struct sockaddr_un *local = (const struct sockaddr_un *)address;
        snprintf(text, sizeof text, "unix:%.*s", (int)sizeof local->sun_path, local->sun_path);
    } else {
        snprintf(text, sizeof text, "family:%d", address->sa_family);
    }
    put_text(to, text);
}

static sfsistat on_negotiate(SMFICTX *ctx, unsigned long actions, unsigned long options,
                             unsigned long third, unsigned long fourth,
                             unsigned long *wanted_actions, unsigned long *wanted_options,
                             unsigned long *wanted_third, unsigned long *wanted_fourth) {
    const unsigned long given[] = {
        actions,         options,         third,         fourth,
        *wanted_actions, *wanted_options, *wanted_third, *wanted_fourth,
    };
    const uint16_t count = sizeof given / sizeof given[0];
    struct buffer arguments = {0};
    for (uint16_t i = 0; i < count; i++)
        put_unsigned(&arguments, given[i]);
    const struct step *step = follow_plan(ctx, ON_NEGOTIATE, count, &arguments);
    if (step->stores) {
        *wanted_actions = step->outputs[0];
        *wanted_options = step->outputs[1];
        *wanted_third = 0;
        *wanted_fourth = 0;
    }
    return step->result;
}

static sfsistat on_connect(SMFICTX *ctx, char *host, struct sockaddr *address) {
    struct buffer arguments = {0};
    put_text(&arguments, host);
    put_address(&arguments, address);
    return follow_plan(ctx, ON_CONNECT, 2, &arguments)->result;
}

static sfsistat on_header(SMFICTX *ctx, char *name, char *value) {
    struct buffer arguments = {0};
    put_text(&arguments, name);
    put_text(&arguments, value);
    return follow_plan(ctx, ON_HEADER, 2, &arguments)->result;
}

static sfsistat on_body(SMFICTX *ctx, unsigned char *chunk, size_t length) {
    struct buffer arguments = {0};
    put_bytes(&arguments, chunk, length);
    return follow_plan(ctx, ON_BODY, 1, &arguments)->result;
}

static sfsistat on_helo(SMFICTX *ctx, char *name) {
    return follow_with_text(ctx, ON_HELO, name);
}

static sfsistat on_envfrom(SMFICTX *ctx, char **strings) {
    return follow_with_strings(ctx, ON_ENVFROM, strings);
}

static sfsistat on_envrcpt(SMFICTX *ctx, char **strings) {
    return follow_with_strings(ctx, ON_ENVRCPT, strings);
}

static sfsistat on_data(SMFICTX *ctx) {
    return follow_without_arguments(ctx, ON_DATA);
}

static sfsistat on_unknown(SMFICTX *ctx, const char *line) {
    return follow_with_text(ctx, ON_UNKNOWN, line);
}

static sfsistat on_eoh(SMFICTX *ctx) {
    return follow_without_arguments(ctx, ON_EOH);
}

static sfsistat on_eom(SMFICTX *ctx) {
    return follow_without_arguments(ctx, ON_EOM);
}

static sfsistat on_abort(SMFICTX *ctx) {
    return follow_without_arguments(ctx, ON_ABORT);
}

static sfsistat on_close(SMFICTX *ctx) {
    return follow_without_arguments(ctx, ON_CLOSE);
}

struct smfiDesc describe_filter(const struct plan *of) {
    static char name[] = "planned";
    const struct script *scripts = of->scripts;
    plan = of;
#define IF_REGISTERED(callback, function) (scripts[callback].registered ? (function) : NULL)
    return (struct smfiDesc){
        .xxfi_name = name,
        .xxfi_version = of->version,
        .xxfi_flags = of->flags,
        .xxfi_connect = IF_REGISTERED(ON_CONNECT, on_connect),
        .xxfi_helo = IF_REGISTERED(ON_HELO, on_helo),
        .xxfi_envfrom = IF_REGISTERED(ON_ENVFROM, on_envfrom),
        .xxfi_envrcpt = IF_REGISTERED(ON_ENVRCPT, on_envrcpt),
        .xxfi_header = IF_REGISTERED(ON_HEADER, on_header),
        .xxfi_eoh = IF_REGISTERED(ON_EOH, on_eoh),
        .xxfi_body = IF_REGISTERED(ON_BODY, on_body),
        .xxfi_eom = IF_REGISTERED(ON_EOM, on_eom),
        .xxfi_abort = IF_REGISTERED(ON_ABORT, on_abort),
        .xxfi_close = IF_REGISTERED(ON_CLOSE, on_close),
        .xxfi_unknown = IF_REGISTERED(ON_UNKNOWN, on_unknown),
        .xxfi_data = IF_REGISTERED(ON_DATA, on_data),
        .xxfi_negotiate = IF_REGISTERED(ON_NEGOTIATE, on_negotiate),
    };
}
