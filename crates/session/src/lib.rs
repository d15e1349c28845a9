//! One client's stay without IO: two legs, safe points, the close choreography.
