/*
 * The benchmark's filter on libmilter: a callback at every stage, one header added at the end.
 *
 *     libmilter_noop ADDRESS [no-reply]
 *
 * With `no-reply` it negotiates away the answers of every stage but the end of the message.
 */

#include <libmilter/mfapi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

static sfsistat on_envelope(SMFICTX *context, char **arguments)
{
    (void)context, (void)arguments;
    return verdict;
}

static sfsistat on_header(SMFICTX *context, char *name, char *value)
{
    (void)context, (void)name, (void)value;
    return verdict;
}

static sfsistat on_body(SMFICTX *context, unsigned char *chunk, size_t size)
{
    (void)context, (void)chunk, (void)size;
    return verdict;
}

static sfsistat on_stage(SMFICTX *context)
{
    (void)context;
    return verdict;
}

static sfsistat on_eom(SMFICTX *context)
{
    smfi_addheader(context, "X-Bench", "1");
    return SMFIS_CONTINUE;
}

int main(int argc, char **argv)
{
    struct smfiDesc filter = {
        .xxfi_name = "libmilter_noop",
        .xxfi_version = SMFI_VERSION,
        .xxfi_flags = SMFIF_ADDHDRS,
        .xxfi_connect = on_connect,
        .xxfi_helo = on_text,
        .xxfi_envfrom = on_envelope,
        .xxfi_envrcpt = on_envelope,
        .xxfi_header = on_header,
        .xxfi_eoh = on_stage,
        .xxfi_body = on_body,
        .xxfi_eom = on_eom,
        .xxfi_abort = on_stage,
        .xxfi_close = on_stage,
        .xxfi_unknown = on_unknown,
        .xxfi_data = on_stage,
    };

    if (argc < 2) {
        fprintf(stderr, "usage: libmilter_noop ADDRESS [no-reply]\n");
        return 2;
    }
    if (argc > 2 && strcmp(argv[2], "no-reply") == 0) {
        filter.xxfi_negotiate = on_negotiate;
        verdict = SMFIS_NOREPLY;
    }
    smfi_setbacklog(1024);
    if (smfi_setconn(argv[1]) != MI_SUCCESS || smfi_register(filter) != MI_SUCCESS)
        return 1;
    return smfi_main() == MI_SUCCESS ? 0 : 1;
}
