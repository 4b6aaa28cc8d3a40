/*
 * The benchmark's filter on libmilter: a callback at every stage, one header added at the end.
 *
 *     libmilter_noop ADDRESS [no-reply | change | wait]
 *
 *     no-reply   negotiate away the answers of every stage but the end of the message
 *     change     collect headers and body, and change header 3 instead of adding one
 *     wait       wait for 20 ms at the sender
 */

#include <libmilter/mfapi.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* What `change` collects of a message, one piece after the other. */
struct collected {
    char *bytes;
    size_t used, allocated;
};

static bool is_changed, is_waiting;

static const unsigned long NO_REPLY_STAGES =
    SMFIP_NR_CONN | SMFIP_NR_HELO | SMFIP_NR_MAIL | SMFIP_NR_RCPT | SMFIP_NR_DATA
    | SMFIP_NR_UNKN | SMFIP_NR_HDR | SMFIP_NR_EOH | SMFIP_NR_BODY;

static sfsistat verdict = SMFIS_CONTINUE;

static sfsistat on_negotiate(SMFICTX *context, unsigned long offered_actions,
                             unsigned long offered_protocol, unsigned long reserved_2,
                             unsigned long reserved_3, unsigned long *actions,
                             unsigned long *protocol, unsigned long *out_2, unsigned long *out_3)
{
    (void)context, (void)offered_actions, (void)offered_protocol;
    (void)reserved_2, (void)reserved_3, (void)out_2, (void)out_3;
    *actions = SMFIF_ADDHDRS;
    *protocol = NO_REPLY_STAGES;
    return SMFIS_CONTINUE;
}

static sfsistat on_connect(SMFICTX *context, char *hostname, _SOCK_ADDR *client)
{
    (void)context, (void)hostname, (void)client;
    return verdict;
}

static sfsistat on_text(SMFICTX *context, char *text)
{
    (void)context, (void)text;
    return verdict;
}

static sfsistat on_unknown(SMFICTX *context, const char *command)
{
    (void)context, (void)command;
    return verdict;
}

static sfsistat on_sender(SMFICTX *context, char **arguments)
{
    (void)context, (void)arguments;
    if (is_waiting)
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    return verdict;
}

static sfsistat on_recipient(SMFICTX *context, char **arguments)
{
    (void)context, (void)arguments;
    return verdict;
}

static sfsistat collect(SMFICTX *context, const void *piece, size_t size)
{
    struct collected *all = smfi_getpriv(context);

    if (all == NULL) {
        all = calloc(1, sizeof *all);
        if (all == NULL || smfi_setpriv(context, all) != MI_SUCCESS)
            return SMFIS_TEMPFAIL;
    }
    if (all->used + size > all->allocated) {
        all->allocated = 2 * (all->used + size);
        char *bytes = realloc(all->bytes, all->allocated);
        if (bytes == NULL)
            return SMFIS_TEMPFAIL;
        all->bytes = bytes;
    }
    memcpy(all->bytes + all->used, piece, size);
    all->used += size;
    return verdict;
}

static sfsistat on_header(SMFICTX *context, char *name, char *value)
{
    if (!is_changed)
        return verdict;
    collect(context, name, strlen(name) + 1);
    return collect(context, value, strlen(value) + 1);
}

static sfsistat on_body(SMFICTX *context, unsigned char *chunk, size_t size)
{
    return is_changed ? collect(context, chunk, size) : verdict;
}

static sfsistat on_stage(SMFICTX *context)
{
    (void)context;
    return verdict;
}

static sfsistat on_eom(SMFICTX *context)
{
    if (is_changed) {
        struct collected *all = smfi_getpriv(context);
        all->used = 0;
        smfi_chgheader(context, "X-Header-3", 1, "changed");
    } else {
        smfi_addheader(context, "X-Bench", "1");
    }
    return SMFIS_CONTINUE;
}

static sfsistat on_close(SMFICTX *context)
{
    struct collected *all = smfi_getpriv(context);

    if (all != NULL) {
        free(all->bytes);
        free(all);
        smfi_setpriv(context, NULL);
    }
    return SMFIS_CONTINUE;
}

int main(int argc, char **argv)
{
    struct smfiDesc filter = {
        .xxfi_name = "libmilter_noop",
        .xxfi_version = SMFI_VERSION,
        .xxfi_flags = SMFIF_ADDHDRS | SMFIF_CHGHDRS,
        .xxfi_connect = on_connect,
        .xxfi_helo = on_text,
        .xxfi_envfrom = on_sender,
        .xxfi_envrcpt = on_recipient,
        .xxfi_header = on_header,
        .xxfi_eoh = on_stage,
        .xxfi_body = on_body,
        .xxfi_eom = on_eom,
        .xxfi_abort = on_stage,
        .xxfi_close = on_close,
        .xxfi_unknown = on_unknown,
        .xxfi_data = on_stage,
    };

    if (argc < 2) {
        fprintf(stderr, "usage: libmilter_noop ADDRESS [no-reply | change | wait]\n");
        return 2;
    }
    const char *work = argc > 2 ? argv[2] : "";
    is_changed = strcmp(work, "change") == 0;
    is_waiting = strcmp(work, "wait") == 0;
    if (strcmp(work, "no-reply") == 0) {
        filter.xxfi_negotiate = on_negotiate;
        verdict = SMFIS_NOREPLY;
    }
    smfi_setbacklog(4096);
    if (smfi_setconn(argv[1]) != MI_SUCCESS || smfi_register(filter) != MI_SUCCESS)
        return 1;
    return smfi_main() == MI_SUCCESS ? 0 : 1;
}
