"""Large images and frames of clips, piece by piece; pieces that frames share are computed once."""
