// SPDX-License-Identifier: GPL-2.0
/*
 * The vendor's two health tests as they are described, in the plainest way: one pass, one byte at a
 * time. This is what the driver's health tests are measured against; nothing else uses it.
 */

/* What the tests keep from block to block. */
struct vendor_state {
	unsigned int rct_max;
	unsigned int rct_total;
	unsigned int apt_max;
	unsigned int apt_total;
	unsigned char rct_status;
	unsigned char apt_status;
};

void vendor_loop(struct vendor_state *s, const unsigned char *data, unsigned int length);

void vendor_loop(struct vendor_state *s, const unsigned char *data, unsigned int length)
{
	unsigned int rct_failures = 0, apt_failures = 0;
	unsigned int run = 0, position = 0, matches = 0;
	unsigned char last = 0, reference = 0;
	unsigned int i;

	for (i = 0; i < length; i++) {
		unsigned char byte = data[i];

		/* Repetition count test: the fifth equal byte is a failure and begins a new run. */
		if (run > 0 && byte == last) {
			if (++run == 5) {
				run = 1;
				s->rct_total++;
				if (++rct_failures > s->rct_max)
					s->rct_max = rct_failures;
				if (rct_failures > 6)
					s->rct_status = 1;
			}
		} else {
			last = byte;
			run = 1;
		}

		/* Adaptive proportion test: a reference, 63 bytes compared with it, and one more. */
		if (position == 0) {
			reference = byte;
			matches = 0;
			position = 1;
		} else if (position < 64) {
			if (byte == reference)
				matches++;
			position++;
		} else {
			if (matches > 5) {
				s->apt_total++;
				if (++apt_failures > s->apt_max)
					s->apt_max = apt_failures;
				if (apt_failures > 6)
					s->apt_status = 2;
			}
			position = 0;
		}
	}
}
