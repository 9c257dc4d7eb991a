/* Prints size, and offset and size of every member, of each structure in the official C headers, as JSON.
 * `cc -I/usr/include/openigtlink probe.c`; tests/test_abi.py compares with igtl's declarations. */
#include <stddef.h>
#include <stdio.h>

#include "igtl_bind.h"
#include "igtl_capability.h"
#include "igtl_colortable.h"
#include "igtl_header.h"
#include "igtl_image.h"
#include "igtl_imgmeta.h"
#include "igtl_lbmeta.h"
#include "igtl_ndarray.h"
#include "igtl_point.h"
#include "igtl_polydata.h"
#include "igtl_position.h"
#include "igtl_qtdata.h"
#include "igtl_qtrans.h"
#include "igtl_sensor.h"
#include "igtl_string.h"
#include "igtl_tdata.h"
#include "igtl_trajectory.h"
#include "igtl_transform.h"
#include "igtl_typeconfig.h"
#include "igtl_types.h"
#include "igtl_unit.h"
#include "igtl_util.h"
#include "igtl_win32header.h"

static const char *between = "";

#define STRUCT(type) \
    printf("%s\"%s\": {\"\": [0, %zu]", between, #type, sizeof(type)); \
    between = "},\n"
#define MEMBER(type, member) \
    printf(", \"%s\": [%zu, %zu]", #member, offsetof(type, member), sizeof(((type *)0)->member))
#define SIZE(type) \
    printf("%s\"%s\": {\"\": [0, %zu]", between, #type, (size_t)(type)); \
    between = "},\n"

int main(void)
{
    printf("{");

    STRUCT(igtl_bind_child_info);
    MEMBER(igtl_bind_child_info, type);
    MEMBER(igtl_bind_child_info, name);
    MEMBER(igtl_bind_child_info, size);
    MEMBER(igtl_bind_child_info, ptr);
    STRUCT(igtl_bind_info);
    MEMBER(igtl_bind_info, ncmessages);
    MEMBER(igtl_bind_info, child_info_array);
    MEMBER(igtl_bind_info, resol);
    MEMBER(igtl_bind_info, request_all);
    MEMBER(igtl_bind_info, status);

    STRUCT(igtl_capability_info);
    MEMBER(igtl_capability_info, ntypes);
    MEMBER(igtl_capability_info, typenames);

    SIZE(IGTL_COLORTABLE_HEADER_SIZE);
    STRUCT(igtl_colortable_header);
    MEMBER(igtl_colortable_header, indexType);
    MEMBER(igtl_colortable_header, mapType);

    SIZE(IGTL_HEADER_SIZE);
    STRUCT(igtl_header);
    MEMBER(igtl_header, version);
    MEMBER(igtl_header, name);
    MEMBER(igtl_header, device_name);
    MEMBER(igtl_header, timestamp);
    MEMBER(igtl_header, body_size);
    MEMBER(igtl_header, crc);

    SIZE(IGTL_IMAGE_HEADER_SIZE);
    STRUCT(igtl_image_header);
    MEMBER(igtl_image_header, version);
    MEMBER(igtl_image_header, num_components);
    MEMBER(igtl_image_header, scalar_type);
    MEMBER(igtl_image_header, endian);
    MEMBER(igtl_image_header, coord);
    MEMBER(igtl_image_header, size);
    MEMBER(igtl_image_header, matrix);
    MEMBER(igtl_image_header, subvol_offset);
    MEMBER(igtl_image_header, subvol_size);

    SIZE(IGTL_IMGMETA_ELEMENT_SIZE);
    STRUCT(igtl_imgmeta_element);
    MEMBER(igtl_imgmeta_element, name);
    MEMBER(igtl_imgmeta_element, device_name);
    MEMBER(igtl_imgmeta_element, modality);
    MEMBER(igtl_imgmeta_element, patient_name);
    MEMBER(igtl_imgmeta_element, patient_id);
    MEMBER(igtl_imgmeta_element, timestamp);
    MEMBER(igtl_imgmeta_element, size);
    MEMBER(igtl_imgmeta_element, scalar_type);
    MEMBER(igtl_imgmeta_element, reserved);

    SIZE(IGTL_LBMETA_ELEMENT_SIZE);
    STRUCT(igtl_lbmeta_element);
    MEMBER(igtl_lbmeta_element, name);
    MEMBER(igtl_lbmeta_element, device_name);
    MEMBER(igtl_lbmeta_element, label);
    MEMBER(igtl_lbmeta_element, reserved);
    MEMBER(igtl_lbmeta_element, rgba);
    MEMBER(igtl_lbmeta_element, size);
    MEMBER(igtl_lbmeta_element, owner);

    SIZE(IGTL_NDARRAY_HEADER_SIZE);
    STRUCT(igtl_ndarray_info);
    MEMBER(igtl_ndarray_info, type);
    MEMBER(igtl_ndarray_info, dim);
    MEMBER(igtl_ndarray_info, size);
    MEMBER(igtl_ndarray_info, array);

    STRUCT(igtl_point_element);
    MEMBER(igtl_point_element, name);
    MEMBER(igtl_point_element, group_name);
    MEMBER(igtl_point_element, rgba);
    MEMBER(igtl_point_element, position);
    MEMBER(igtl_point_element, radius);
    MEMBER(igtl_point_element, owner);

    STRUCT(igtl_polydata_header);
    MEMBER(igtl_polydata_header, npoints);
    MEMBER(igtl_polydata_header, nvertices);
    MEMBER(igtl_polydata_header, size_vertices);
    MEMBER(igtl_polydata_header, nlines);
    MEMBER(igtl_polydata_header, size_lines);
    MEMBER(igtl_polydata_header, npolygons);
    MEMBER(igtl_polydata_header, size_polygons);
    MEMBER(igtl_polydata_header, ntriangle_strips);
    MEMBER(igtl_polydata_header, size_triangle_strips);
    MEMBER(igtl_polydata_header, nattributes);
    STRUCT(igtl_polydata_attribute_header);
    MEMBER(igtl_polydata_attribute_header, type);
    MEMBER(igtl_polydata_attribute_header, ncomponents);
    MEMBER(igtl_polydata_attribute_header, n);
    STRUCT(igtl_polydata_attribute);
    MEMBER(igtl_polydata_attribute, type);
    MEMBER(igtl_polydata_attribute, ncomponents);
    MEMBER(igtl_polydata_attribute, n);
    MEMBER(igtl_polydata_attribute, name);
    MEMBER(igtl_polydata_attribute, data);
    STRUCT(igtl_polydata_info);
    MEMBER(igtl_polydata_info, header);
    MEMBER(igtl_polydata_info, points);
    MEMBER(igtl_polydata_info, vertices);
    MEMBER(igtl_polydata_info, lines);
    MEMBER(igtl_polydata_info, polygons);
    MEMBER(igtl_polydata_info, triangle_strips);
    MEMBER(igtl_polydata_info, attributes);

    STRUCT(igtl_position);
    MEMBER(igtl_position, position);
    MEMBER(igtl_position, quaternion);

    STRUCT(igtl_qtdata_element);
    MEMBER(igtl_qtdata_element, name);
    MEMBER(igtl_qtdata_element, type);
    MEMBER(igtl_qtdata_element, reserved);
    MEMBER(igtl_qtdata_element, position);
    MEMBER(igtl_qtdata_element, quaternion);
    STRUCT(igtl_stt_qtdata);
    MEMBER(igtl_stt_qtdata, resolution);
    MEMBER(igtl_stt_qtdata, coord_name);
    STRUCT(igtl_rts_qtdata);
    MEMBER(igtl_rts_qtdata, status);

    STRUCT(igtl_qtrans);
    MEMBER(igtl_qtrans, qtrans);
    MEMBER(igtl_qtrans, quaternion);

    SIZE(IGTL_SENSOR_HEADER_SIZE);
    STRUCT(igtl_sensor_header);
    MEMBER(igtl_sensor_header, larray);
    MEMBER(igtl_sensor_header, status);
    MEMBER(igtl_sensor_header, unit);

    SIZE(IGTL_STRING_HEADER_SIZE);
    STRUCT(igtl_string_header);
    MEMBER(igtl_string_header, encoding);
    MEMBER(igtl_string_header, length);

    STRUCT(igtl_tdata_element);
    MEMBER(igtl_tdata_element, name);
    MEMBER(igtl_tdata_element, type);
    MEMBER(igtl_tdata_element, reserved);
    MEMBER(igtl_tdata_element, transform);
    STRUCT(igtl_stt_tdata);
    MEMBER(igtl_stt_tdata, resolution);
    MEMBER(igtl_stt_tdata, coord_name);
    STRUCT(igtl_rts_tdata);
    MEMBER(igtl_rts_tdata, status);

    SIZE(IGTL_TRAJECTORY_ELEMENT_SIZE);
    STRUCT(igtl_trajectory_element);
    MEMBER(igtl_trajectory_element, name);
    MEMBER(igtl_trajectory_element, group_name);
    MEMBER(igtl_trajectory_element, type);
    MEMBER(igtl_trajectory_element, reserved);
    MEMBER(igtl_trajectory_element, rgba);
    MEMBER(igtl_trajectory_element, entry_pos);
    MEMBER(igtl_trajectory_element, target_pos);
    MEMBER(igtl_trajectory_element, radius);
    MEMBER(igtl_trajectory_element, owner_name);

    SIZE(IGTL_TRANSFORM_SIZE);

    STRUCT(igtl_unit_data);
    MEMBER(igtl_unit_data, prefix);
    MEMBER(igtl_unit_data, unit);
    MEMBER(igtl_unit_data, exp);

    /* igtl_types.h */
    STRUCT(igtl_uint8);
    STRUCT(igtl_int8);
    STRUCT(igtl_uint16);
    STRUCT(igtl_int16);
    STRUCT(igtl_uint32);
    STRUCT(igtl_int32);
    STRUCT(igtl_uint64);
    STRUCT(igtl_int64);
    STRUCT(igtl_float32);
    STRUCT(igtl_float64);
    STRUCT(igtl_complex);

    printf("}}\n");
    return 0;
}
