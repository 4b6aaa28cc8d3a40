/*
 * What the MTA says in this benchmark, as bytes and by the milter's wishes, and what it must hear.
 *
 * Stages that the milter negotiated away are not sent. Packets that it will not answer are held
 * back and leave together with the next one that it does answer, in one write, as Postfix's
 * buffered stream does it. Macros always travel with the command that they belong to.
 */

#ifndef BENCH_SCRIPT_H
#define BENCH_SCRIPT_H

#include <arpa/inet.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NEGOTIATION_BYTES = 17, MAX_ANSWER_BYTES = 64 };

/* SMFIP_HDR_LEADSPC: values of headers keep their blank, in both directions. */
static const uint32_t HEADER_LEADING_SPACE = 0x100000;

/* Protocol bits of a stage: SMFIP_NO* (it is not sent) and SMFIP_NR_* (it gets no answer). */
static const struct stage {
    char letter;
    uint32_t not_wanted;
    uint32_t no_reply;
} STAGES[] = {
    {'C', 0x1, 0x1000},    {'H', 0x2, 0x2000},  {'M', 0x4, 0x4000},   {'R', 0x8, 0x8000},
    {'T', 0x200, 0x10000}, {'L', 0x20, 0x80},   {'N', 0x40, 0x40000}, {'B', 0x10, 0x80000},
    {'E', 0, 0},
};

/* What is sent, and which edit must come back. */
struct message {
    int headers;
    size_t body_bytes;
    size_t piece_bytes;         /* of the body, at most */
    bool is_changed;            /* the milter changes header 3; else it adds one */
};

/* The bytes of one write, and whether an answer follows it. */
struct step {
    size_t start;
    size_t size;
    bool is_end_of_message;
};

struct script {
    struct step *steps;
    int count;
    uint8_t *bytes;
    size_t used;
    size_t allocated;
    size_t written;             /* start of the bytes that belong to no step yet */
};

/* What ends a message: the edit and CONTINUE, whose letter may also be that of ACCEPT. */
struct answer {
    char bytes[MAX_ANSWER_BYTES];
    size_t size;
};

/* Turn a string literal into "bytes, size": the packets contain NULs, the last one is implied. */
#define TEXT(literal) literal, sizeof(literal)

static void *checked(void *allocated)
{
    if (allocated == NULL) {
        perror("memory");
        exit(1);
    }
    return allocated;
}

static void add_packet(struct script *script, char letter, const void *payload, size_t size)
{
    uint32_t length = htonl((uint32_t)size + 1);

    if (script->used + 5 + size > script->allocated) {
        script->allocated = 2 * (script->used + 5 + size);
        script->bytes = checked(realloc(script->bytes, script->allocated));
    }
    memcpy(script->bytes + script->used, &length, 4);
    script->bytes[script->used + 4] = (uint8_t)letter;
    memcpy(script->bytes + script->used + 5, payload, size);
    script->used += 5 + size;
}

/* Add a command, unless it is not wanted; end the step here if it is answered. */
static void add_command(struct script *script, uint32_t protocol, char letter,
                        const void *payload, size_t size)
{
    const struct stage *stage = STAGES;

    while (stage->letter != letter)
        stage++;
    if (protocol & stage->not_wanted)
        return;
    add_packet(script, letter, payload, size);
    if (protocol & stage->no_reply)
        return;
    script->steps = checked(
        realloc(script->steps, (size_t)(script->count + 1) * sizeof *script->steps));
    script->steps[script->count++] = (struct step){
        .start = script->written,
        .size = script->used - script->written,
        .is_end_of_message = letter == 'E',
    };
    script->written = script->used;
}

/* CONNECT and HELO, once a connection. */
static void write_opening(struct script *script, uint32_t protocol)
{
    add_packet(script, 'D', TEXT("Cj\0mail.example.org\0{daemon_name}\0smtpd\0v\0Load 1"));
    add_command(script, protocol, 'C', TEXT("client.example.net\0004\100\000192.0.2.1"));
    add_command(script, protocol, 'H', TEXT("client.example.net"));
}

/* One message, from MAIL to the end. */
static void write_message(struct script *script, uint32_t protocol, const struct message *message)
{
    char text[128];
    const char *blank = protocol & HEADER_LEADING_SPACE ? " " : "";

    add_packet(script, 'D', TEXT("Mi\0004B1C2D3E4F\0{mail_addr}\0sender@example.net\0"
                                 "{mail_host}\0example.net\0{mail_mailer}\0smtp"));
    add_command(script, protocol, 'M', TEXT("<sender@example.net>\0SIZE=5000\0BODY=8BITMIME"));
    for (int i = 1; i <= 2; i++) {
        int size = snprintf(text, sizeof text, "R{rcpt_addr}%cuser%d@example.org%c{rcpt_host}%c"
                            "example.org%c{rcpt_mailer}%clocal", 0, i, 0, 0, 0, 0);
        add_packet(script, 'D', text, (size_t)size + 1);
        size = snprintf(text, sizeof text, "<user%d@example.org>", i);
        add_command(script, protocol, 'R', text, (size_t)size + 1);
    }
    add_command(script, protocol, 'T', "", 0);
    for (int i = 1; i <= message->headers; i++) {
        int size = snprintf(text, sizeof text, "X-Header-%d%c%svalue number %d of an ordinary "
                            "header of ordinary length", i, 0, blank, i);
        add_command(script, protocol, 'L', text, (size_t)size + 1);
    }
    add_command(script, protocol, 'N', "", 0);

    size_t piece = message->piece_bytes;
    uint8_t *body = checked(malloc(message->body_bytes + 1));
    for (size_t i = 0; i < message->body_bytes; i++)    /* lines of 64 bytes, ended by CR LF */
        body[i] = (uint8_t)(i % 64 == 62 ? '\r' : i % 64 == 63 ? '\n' : 'a' + i % 26);
    for (size_t at = 0; at < message->body_bytes; at += piece) {
        size_t left = message->body_bytes - at;
        add_command(script, protocol, 'B', body + at, left < piece ? left : piece);
    }
    free(body);
    add_command(script, protocol, 'E', "", 0);
}

/* Write the answer that must end each message. */
static void write_answer(struct answer *answer, uint32_t protocol, const struct message *message)
{
    struct script edit = {0};
    char text[MAX_ANSWER_BYTES];
    const char *blank = protocol & HEADER_LEADING_SPACE ? " " : "";
    int size;

    if (message->is_changed) {
        size = snprintf(text, sizeof text, "%c%c%c%cX-Header-3%c%schanged", 0, 0, 0, 1, 0, blank);
        add_packet(&edit, 'm', text, (size_t)size + 1);
    } else {
        size = snprintf(text, sizeof text, "X-Bench%c%s1", 0, blank);
        add_packet(&edit, 'h', text, (size_t)size + 1);
    }
    add_packet(&edit, 'c', "", 0);
    memcpy(answer->bytes, edit.bytes, edit.used);
    answer->size = edit.used;
    free(edit.bytes);
}

#endif
