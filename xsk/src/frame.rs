//! Frames and packets: owned tokens for UMEM chunks.
//!
//! A [`Frame`] is the only key to one chunk's bytes: it cannot be copied, cloned or made outside this crate, so
//! whoever holds it is the only one to touch them. Ports and pools take and give tokens; losing one loses its
//! chunk until the process ends, and shows for ever as a `worker` frame in [`crate::Umem::owners`].

/// Bytes of one UMEM chunk: the page size, the largest the kernel takes (linux net/xdp/xdp_umem.c) and the only
/// one ENA takes.
pub const CHUNK_SIZE: usize = 4096;

/// Bytes the kernel keeps before the data of a received frame (XDP_PACKET_HEADROOM); fresh frames start there too.
pub const HEADROOM: usize = 256;

/// The most bytes one fresh frame holds.
pub const MAX_FRAME_LEN: usize = CHUNK_SIZE - HEADROOM;

/// The most frames one packet may span: 19,200 bytes, twice the largest MTU of a VPC (9001).
pub const MAX_SEGMENTS: usize = 5;

/// The owned token of one chunk.
///
/// Not `Clone`, not `Copy`; give it back with [`crate::FramePool::free`] or hand it to a [`crate::Port`].
#[must_use = "a dropped frame is lost to its UMEM: free it into a pool or send it"]
#[derive(Debug)]
pub struct Frame {
    index: u32,
    umem: u32,
    offset: u16,
    len: u16,
}

/// One packet: a head frame and, for jumbo packets, up to [`MAX_SEGMENTS`] - 1 more. Never empty.
///
/// Two words, because every packet is moved from queue to queue: the other frames are chained in the UMEM's chunk table.
/// [`crate::Umem::append`] adds one, [`crate::Umem::segments`] reads them all.
#[must_use = "a dropped packet loses its frames: free it into a pool or send it"]
#[derive(Debug)]
pub struct Packet {
    head: Frame,
    /// Frames behind the head.
    followers: u16,
    /// Bytes in them.
    followers_len: u16,
}

impl Frame {
    /// Makes the token of chunk `index`, whose data is `len` bytes from `offset` within the chunk.
    ///
    /// # Safety
    /// No other token of this chunk may exist, the kernel must not hold the chunk, `umem` must be the tag of the
    /// UMEM that has it, and `offset + len` must not pass [`CHUNK_SIZE`].
    pub(crate) unsafe fn new(index: u32, umem: u32, offset: u16, len: u16) -> Self {
        Self { index, umem, offset, len }
    }

    /// Bytes of data in this frame.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "an empty frame is a fresh one; nobody asks for it")]
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// The chunk's number in its UMEM.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    pub(crate) fn umem_tag(&self) -> u32 {
        self.umem
    }

    /// Where the data starts within the chunk.
    pub(crate) fn offset(&self) -> usize {
        usize::from(self.offset)
    }

    /// Follows a change of the chunk's contents.
    ///
    /// # Safety
    /// `offset + len` must not pass [`CHUNK_SIZE`], and the chunk's descriptor must say the same.
    pub(crate) unsafe fn set_extent(&mut self, offset: u16, len: u16) {
        self.offset = offset;
        self.len = len;
    }

    /// Ends the token without losing the chunk: the caller has recorded its next owner.
    pub(crate) fn retire(self) -> u32 {
        let index = self.index;
        std::mem::forget(self);
        index
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        debug_assert!(
            std::thread::panicking(),
            "frame {} of UMEM {} was dropped instead of freed or sent",
            self.index,
            self.umem
        );
    }
}

impl Packet {
    /// A packet of one frame.
    pub fn single(head: Frame) -> Self {
        Self { head, followers: 0, followers_len: 0 }
    }

    /// The first frame: the one with the packet's headers and steering metadata.
    pub fn head(&self) -> &Frame {
        &self.head
    }

    /// The first frame, to be changed.
    pub fn head_mut(&mut self) -> &mut Frame {
        &mut self.head
    }

    /// Number of frames, at least 1.
    #[must_use]
    pub fn segment_count(&self) -> usize {
        1 + usize::from(self.followers)
    }

    /// Bytes of all frames together.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a packet always has a frame")]
    pub fn len(&self) -> usize {
        self.head.len() + usize::from(self.followers_len)
    }

    /// Counts a frame that the chunk table now has behind the others, in place of its token.
    pub(crate) fn adopt(&mut self, follower: Frame) {
        self.followers += 1;
        self.followers_len += follower.len;
        follower.retire();
    }

    /// Ends the packet's tokens without losing the chunks, as [`Frame::retire`] does.
    pub(crate) fn retire(self) {
        self.head.retire();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(index: u32, len: u16) -> Frame {
        // SAFETY: the token is never used with a UMEM; these tests only look at it.
        unsafe { Frame::new(index, 1, 256, len) }
    }

    #[test]
    fn a_packet_is_two_words() {
        assert_eq!(size_of::<Packet>(), 16);
    }

    #[test]
    fn a_packet_is_as_long_as_its_frames() {
        let mut packet = Packet::single(frame(0, 3840));
        for index in 1..MAX_SEGMENTS as u32 {
            packet.adopt(frame(index, 4096));
        }
        assert_eq!((packet.segment_count(), packet.len()), (MAX_SEGMENTS, 3840 + 4 * 4096));
        assert_eq!(packet.head().index(), 0);
        packet.retire();
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "was dropped instead of freed or sent")]
    fn a_lost_frame_is_noticed() {
        drop(frame(7, 1));
    }
}
